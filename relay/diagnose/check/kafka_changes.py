"""Hops 2 to 5: what it means that a topic is not what it was at the last healthy check.

Invariant: pure. Said once: the next healthy run is what is compared with then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from relay.diagnose.check.result import Result, State, warning
from relay.runtime.flow import Flow

_TOPIC: Final = "kafka.topic:"
# As `kafka_rules` words it.
_FOUND: Final = re.compile(r"(\d+) partitions, id (\S+)")


def judge_changed_topics(
    before: Sequence[Mapping[str, Any]], now: Sequence[Result], flow: Flow
) -> Iterator[Result]:
    """Yield a warning for each topic with other partitions or another id than before."""
    then = {str(row["name"]): _FOUND.match(str(row["found"])) for row in before}
    for result in now:
        if not result.name.startswith(_TOPIC) or result.state is not State.OK:
            continue
        was, found = then.get(result.name), _FOUND.match(result.found)
        if was is None or found is None:
            continue
        topic = result.name.removeprefix(_TOPIC)
        if was[2] != found[2]:
            yield _recreated(topic, flow)
        elif was[1] != found[1]:
            yield _repartitioned(topic, int(was[1]), int(found[1]))


def _recreated(topic: str, flow: Flow) -> Result:
    lost = "returns" if topic == flow.returns_topic else "events"
    return warning(
        f"kafka.recreated:{topic}",
        f"it was deleted and made again since: its {lost} of before are gone",
        "relay unreturned names the orders that wait for them; relay replay sends events again",
    )


def _repartitioned(topic: str, was: int, found: int) -> Result:
    return warning(
        f"kafka.partitions:{topic}",
        f"there were {was} and are {found}: keys moved, so that the later event of an order can "
        "overtake the earlier one",
        "let every consumer come to the old ends before the next change; make a topic with "
        "enough partitions from the start",
    )
