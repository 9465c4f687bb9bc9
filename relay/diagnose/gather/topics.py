"""Hops 2 and 3: asks the broker for topics, their logs, and the processor's groups.

Invariant: reads only; what the broker refuses or does not say in time is Missing, part by part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from aiokafka.errors import KafkaError

from relay.diagnose.evidence.surroundings import (
    GroupSeen,
    LogSeen,
    Missing,
    Partition,
    Shrink,
    TopicSeen,
)
from relay.diagnose.gather.broker import EARLIEST, LATEST, Broker
from relay.diagnose.gather.reading import BROKER_FAILURES, broker_missing
from relay.runtime.flow import Flow

_OTHER_GROUPS_AT_MOST: Final = 100
_PART_SECONDS: Final = 10.0
_DEAD: Final = "Dead"


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What the broker says of topics and groups."""

    topics: Mapping[str, TopicSeen] | Missing
    groups: Mapping[str, GroupSeen] | Missing
    other_groups: tuple[str, ...] = ()


async def read_topics(
    broker: Broker, flow: Flow, shrinks: Mapping[str, tuple[Shrink, ...]]
) -> TopicFacts:
    """Read what the broker knows of the flow's topics and groups.

    Args:
        broker: connected.
        flow: names them.
        shrinks: by topic, the times that its logs were recorded to have shrunk.
    """
    topics: Mapping[str, TopicSeen] | Missing
    groups: Mapping[str, GroupSeen] | Missing
    try:
        async with asyncio.timeout(_PART_SECONDS):
            topics = await _topics(broker, flow.topics | {flow.returns_topic}, shrinks)
    except BROKER_FAILURES as error:
        topics = broker_missing("the topics", error)
    try:
        async with asyncio.timeout(_PART_SECONDS):
            groups = {name: await read_group(broker, name) for name in flow.processor_groups}
    except BROKER_FAILURES as error:
        return TopicFacts(topics, broker_missing("the processor's group", error))
    if any(group.exists for group in groups.values()):
        return TopicFacts(topics, groups)
    others = await _other_groups(broker, flow)
    if isinstance(others, Missing):
        return TopicFacts(topics, others)
    return TopicFacts(topics, groups, others)


async def _topics(
    broker: Broker, names: Iterable[str], shrinks: Mapping[str, tuple[Shrink, ...]]
) -> dict[str, TopicSeen]:
    found = {}
    settings = await _settings(broker, names)
    for name in sorted(names):
        partitions = broker.partitions(name)
        if not partitions:
            found[name] = TopicSeen(name, exists=False, shrinks=shrinks.get(name, ()))
            continue
        starts = await broker.offsets(partitions, EARLIEST)
        ends = await broker.offsets(partitions, LATEST)
        own = settings.get(name, {})
        found[name] = TopicSeen(
            name=name,
            exists=True,
            logs={one[1]: LogSeen(starts.get(one, 0), ends[one]) for one in ends},
            retention_seconds=_retention_seconds(own.get("retention.ms")),
            compacted="compact" in own.get("cleanup.policy", ""),
            shrinks=shrinks.get(name, ()),
        )
    return found


async def _settings(broker: Broker, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Read the topics' settings; without the permission to, they are simply not known."""
    try:
        return await broker.topic_settings(names)
    except KafkaError:
        return {}


def _retention_seconds(milliseconds: str | None) -> float | None:
    if milliseconds is None or int(milliseconds) < 0:
        return None
    return int(milliseconds) / 1000


async def read_group(broker: Broker, name: str) -> GroupSeen:
    """Read one group: who is in it, and what it has committed."""
    described = await broker.members(name)
    committed = await broker.committed(name)
    if described.state == _DEAD and committed:
        # A group of the new protocol (KIP-848): its offsets are told, its members are not.
        return GroupSeen(name, exists=True, state="", members=None, committed=committed)
    return GroupSeen(
        name=name,
        exists=described.state != _DEAD,
        state=described.state,
        members=described.members,
        subscribed=described.subscribed if described.members else None,
        assigned=described.assigned if described.members else None,
        committed=committed,
    )


async def _other_groups(broker: Broker, flow: Flow) -> tuple[str, ...] | Missing:
    """Return which other groups read the events topics: the setting may name the wrong one."""
    try:
        async with asyncio.timeout(_PART_SECONDS):
            names = (await broker.groups())[:_OTHER_GROUPS_AT_MOST]
            reading = [name for name in names if await _reads(broker, name, flow.topics)]
    except BROKER_FAILURES as error:
        return broker_missing("the consumer groups", error)
    return tuple(reading)


async def _reads(broker: Broker, group: str, topics: Collection[str]) -> bool:
    try:
        committed = await broker.committed(group)
        members = await broker.members(group)
    except KafkaError:
        return False  # a group that we may not see
    subscribed = members.subscribed or frozenset()
    return any(topic in topics for topic, _ in committed) or bool(subscribed & set(topics))


async def read_again(
    broker: Broker, groups: Mapping[str, GroupSeen], wanted: Collection[Partition]
) -> Mapping[str, GroupSeen]:
    """Read committed offsets once more, a moment later: does it move?"""
    later = {}
    for name, group in groups.items():
        try:
            now = await broker.committed(name)
        except BROKER_FAILURES:
            return groups
        earlier = {one: group.committed[one] for one in wanted if one in group.committed}
        later[name] = replace(group, committed=now, earlier=earlier)
    return later


def broker_away(flow: Flow, error: BaseException) -> TopicFacts:
    """Return the facts of a broker that cannot be reached."""
    missing = broker_missing(
        f"the broker (topics, group {', '.join(flow.processor_groups)})", error
    )
    return TopicFacts(missing, missing)
