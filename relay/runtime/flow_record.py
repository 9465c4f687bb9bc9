"""The part of the flow that a process runs with, recorded and compared with a command's.

Invariant: pure. A command goes by what every process that uses a setting runs with; where these
differ among themselves it keeps its own and says so. What no process uses itself (the processor's
groups) is only told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.runtime.flow import EventRoute, Flow

# Who uses a setting; nobody: it is told and not taken over.
_USED_BY: Final[Mapping[str, frozenset[str]]] = {
    "events": frozenset({"relay", "confirm", "watchdog"}),
    "returns_topic": frozenset({"confirm"}),
    "confirm_group": frozenset({"confirm"}),
    "processor_groups": frozenset(),
}


def as_recorded(flow: Flow, *more: Flow) -> dict[str, Any]:
    """Return what a process records of the flow that it runs with, or of each of its flows."""
    if more:
        return {"flows": {one.name: as_recorded(one) for one in (flow, *more)}}
    return {
        "name": flow.name,
        "events": {
            name: [route.topic, route.deadline_seconds] for name, route in flow.events.items()
        },
        "returns_topic": flow.returns_topic,
        "confirm_group": flow.confirm_group,
        "processor_groups": list(flow.processor_groups),
    }


@dataclass(frozen=True, slots=True)
class Running:
    """A process that lives, and what it recorded of its flow."""

    kind: str
    instance: str
    flow: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.kind} {self.instance}"


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that some processes run with otherwise.

    Attributes:
        processes: that run with `theirs`.
        taken: the command goes by theirs.
    """

    setting: str
    processes: tuple[str, ...]
    theirs: Any
    ours: Any
    taken: bool

    def as_data(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "setting": self.setting,
            "processes": list(self.processes),
            "theirs": self.theirs,
            "ours": self.ours,
            "used": "theirs" if self.taken else "ours",
        }

    @property
    def text(self) -> str:
        """The difference in words."""
        theirs, ours = self.theirs, self.ours
        if self.setting == "events":
            names = sorted({*theirs, *ours})
            names = [name for name in names if theirs.get(name) != ours.get(name)]
            theirs, ours = (
                ", ".join(_route(name, side.get(name)) for name in names) for side in (theirs, ours)
            )
        kept = "" if self.taken else ", which are kept"
        who = " and ".join(self.processes[:2]) + (" and others" if len(self.processes) > 2 else "")  # noqa: PLR2004
        return f"{who}: {self.setting} = {_text(theirs)}; these settings: {_text(ours)}{kept}"


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _route(name: str, route: Sequence[Any] | None) -> str:
    if route is None:
        return f"no {name}"
    topic, seconds = route
    return f"{name} to {topic}" + (f" due after {seconds:g} s" if seconds is not None else "")


def compared(flow: Flow, running: Iterable[Running]) -> tuple[Flow, list[Difference]]:
    """Return the flow to go by, and what differs."""
    lives, ours = [*_of_flow(flow, running)], as_recorded(flow)
    differences: list[Difference] = []
    for setting, users in _USED_BY.items():
        asked = [one for one in lives if not users or one.kind in users]
        values: list[Any] = []
        for one in asked:
            value = one.flow.get(setting)
            if _fits(setting, value) and value not in values:
                values.append(value)
        taken = bool(users) and len(values) == 1
        differences += [
            Difference(
                setting,
                tuple(one.name for one in asked if one.flow.get(setting) == theirs),
                theirs,
                ours[setting],
                taken,
            )
            for theirs in values
            if theirs != ours[setting]
        ]
    changed = _with(flow, {one.setting: one.theirs for one in differences if one.taken})
    if changed is None:
        return flow, [replace(one, taken=False) for one in differences]
    return changed, differences


def _of_flow(flow: Flow, running: Iterable[Running]) -> Iterable[Running]:
    """Leave out what processes run with for other flows."""
    for one in running:
        several = one.flow.get("flows")
        if isinstance(several, dict):
            recorded = several.get(flow.name)
            if isinstance(recorded, dict):
                yield replace(one, flow=recorded)
        elif one.flow.get("name") not in flow.others.names:
            yield one


def _fits(setting: str, value: Any) -> bool:
    """Tell whether a record can be read: another version may have written it otherwise."""
    if setting == "processor_groups":
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if setting != "events":
        return isinstance(value, str)
    return isinstance(value, dict) and all(
        isinstance(route, list)
        and len(route) == 2  # noqa: PLR2004 - topic and deadline
        and isinstance(route[0], str)
        and isinstance(route[1], int | float | None)
        for route in value.values()
    )


def _with(flow: Flow, changes: Mapping[str, Any]) -> Flow | None:
    """Return the flow with these changes; None: they and the rest contradict each other."""
    given = dict(changes)
    if "events" in given:
        given["events"] = {name: EventRoute(*route) for name, route in given["events"].items()}
    try:
        return replace(flow, **given) if given else flow
    except ValueError:
        return None
