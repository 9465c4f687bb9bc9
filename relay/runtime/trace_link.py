"""Commands and pages: where an order's trace can be looked at; pure.

Invariant: a link leads to a trace that exists, or there is none: an order that its caller did not
sample has spans only where the watchdog wrote what it could prove.
"""

from __future__ import annotations

from typing import Final

PLACE: Final = "{trace_id}"
NOT_SAMPLED: Final = "not sampled"
# What the watchdog's spans of missing returns are found by, in the viewer.
_WATCHDOG: Final = "relay-watchdog"


def trace_link(url: str | None, trace_id: str | None, *, overdue: bool = False) -> str | None:
    """Return the address of a trace; None where the viewer or the trace is not known.

    Args:
        url: of the viewer, RELAY_TRACE_URL: `{trace_id}` in it is replaced (Grafana and Tempo),
            else it is the address of a Jaeger.
        trace_id: in lower-case hex; text of anybody else is not put into an address.
        overdue: the span of its missing return is highlighted, where the viewer is a Jaeger.
    """
    if not url or not trace_id or not trace_id.isalnum():
        return None
    if PLACE in url:
        return url.replace(PLACE, trace_id)
    found = f"{url.rstrip('/')}/trace/{trace_id}"
    return f"{found}?uiFind={_WATCHDOG}" if overdue else found
