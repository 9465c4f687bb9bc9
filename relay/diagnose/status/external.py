"""Hop 2: what `relay status` says of a publisher that is not ours; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relay.diagnose.evidence.publisher import PublisherSeen, SlotSeen
from relay.diagnose.evidence.system_state import Missing


@dataclass(frozen=True, slots=True)
class PublisherText:
    """A publisher in words: who it is, what is wrong with it, what of it is not witnessed yet."""

    named: str
    troubles: Sequence[str]
    behind: str


def explain_publisher(publisher: PublisherSeen) -> PublisherText:
    """Tell it."""
    named, troubles = _connector(publisher)
    slot = publisher.slot
    if slot is not None:
        behind = "" if slot.behind_bytes is None else f", {slot.behind_bytes:,} bytes behind"
        named.append(f"slot {slot.name}{behind}")
        troubles += _slot_trouble(slot)
    left, unread = publisher.unread, ""
    if isinstance(left, Missing):
        troubles.append(f"what is unread is not known: {left.detail}")
    elif left:
        unread = f"{sum(left.values()):,} records are not witnessed yet"
    by = f"somebody else{': ' if named else ''}{', '.join(named)}"
    return PublisherText(by, troubles, unread)


def _connector(publisher: PublisherSeen) -> tuple[list[str], list[str]]:
    """Return what the connector is, and what is wrong with it."""
    connector = publisher.connector
    if connector is None:
        return [], []
    if isinstance(connector, Missing):
        return [], [f"Kafka Connect: {connector.detail}"]
    task, named = connector.failed_task, f"connector {connector.name} {connector.state}"
    if task is not None:
        return [named], [f"task {task.number} failed: {task.trace}"]
    return [named], [] if connector.state == "RUNNING" else [f"it is {connector.state}"]


def _slot_trouble(slot: SlotSeen) -> list[str]:
    if not slot.exists:
        return [f"slot {slot.name} does not exist"]
    if slot.lost is not None:
        return [f"slot {slot.name} is lost: {slot.lost}"]
    return [] if slot.active else [f"nobody reads slot {slot.name}"]
