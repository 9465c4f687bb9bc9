"""Links to traces: Jaeger's and anybody else's; only to what is there."""

import pytest

from relay.runtime.trace_link import trace_link

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GRAFANA = 'https://g.example/explore?left={"queries":[{"query":"{trace_id}"}]}'


@pytest.mark.parametrize(
    ("url", "overdue", "link"),
    [
        ("http://j:16686/", False, f"http://j:16686/trace/{TRACE}"),
        ("http://j:16686", True, f"http://j:16686/trace/{TRACE}?uiFind=relay-watchdog"),
        (GRAFANA, True, GRAFANA.replace("{trace_id}", TRACE)),
        (None, False, None),
        ("", True, None),
    ],
)
def test_where_a_trace_can_be_looked_at(url: str | None, overdue: bool, link: str | None) -> None:
    assert trace_link(url, TRACE, overdue=overdue) == link


@pytest.mark.parametrize("trace_id", [None, "", "../../x", 'a"onclick="b'])
def test_what_is_no_trace_id_is_in_no_address(trace_id: str | None) -> None:
    assert trace_link("http://j", trace_id) is None
