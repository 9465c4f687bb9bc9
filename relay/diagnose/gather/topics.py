"""Hops 2 and 3: asks the broker for topics, their logs, and the processor's groups.

Invariant: reads only; what the broker refuses or does not say in time is Missing, part by part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from aiokafka.errors import GroupAuthorizationFailedError, KafkaError

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.system_state import (
    GroupSeen,
    LogSeen,
    Missing,
    Shrink,
    TopicSeen,
    TransactionSeen,
)
from relay.diagnose.gather.reading import broker_missing
from relay.diagnose.gather.transactions import open_transactions
from relay.kafka.broker import EARLIEST, LATEST, Broker
from relay.kafka.failures import READING_FAILURES
from relay.kafka.groups import CLASSIC, CONSUMER, DEAD, SHARE, GroupMembers
from relay.kafka.partition import Partition
from relay.kafka.ranges import fetch
from relay.runtime.flow import Flow

_GROUPS_AT_ONCE: Final = 50
_EMPTY: Final = "Empty"
_DESCRIBED: Final = (CLASSIC, CONSUMER)
_PART_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What the broker says of topics and groups."""

    topics: Mapping[str, TopicSeen] | Missing
    groups: Mapping[str, GroupSeen] | Missing
    other_groups: tuple[str, ...] = ()
    other_readers: tuple[GroupSeen, ...] | Missing = ()


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
    except READING_FAILURES as error:
        topics = broker_missing("the topics", error)
    try:
        async with asyncio.timeout(_PART_SECONDS):
            groups = {name: await read_group(broker, name) for name in flow.processor_groups}
            groups = await _held_up(broker, groups, topics)
    except READING_FAILURES as error:
        return TopicFacts(topics, broker_missing("the processor's group", error))
    if any(group.members != 0 for group in groups.values()):
        return TopicFacts(topics, groups)
    others = await other_readers(broker, flow)
    if isinstance(others, Missing):
        known = any(group.exists for group in groups.values())
        return TopicFacts(topics, groups if known else others, other_readers=others)
    return TopicFacts(topics, groups, tuple(map(_named, others)), others)


async def _held_up(
    broker: Broker,
    groups: Mapping[str, GroupSeen],
    topics: Mapping[str, TopicSeen] | Missing,
) -> dict[str, GroupSeen]:
    """Find out which groups have read everything before an open transaction."""
    seen = {} if isinstance(topics, Missing) else topics
    begun = {
        Partition(name, number): log
        for name, topic in seen.items()
        for number, log in topic.logs.items()
        if log.transaction is not None
    }
    return {
        name: replace(group, before_transaction=await _at_the_end(broker, group, begun))
        for name, group in groups.items()
    }


async def _at_the_end(
    broker: Broker, group: GroupSeen, begun: Mapping[Partition, LogSeen]
) -> frozenset[Partition]:
    """Return the partitions on which no committed record is left for a group."""
    starts = {
        one: max(group.committed.get(one, 0), log.log_start)
        for one, log in begun.items()
        if log.stable_end is not None and group.committed.get(one, 0) <= log.stable_end
    }
    left = {one: at for one, at in starts.items() if at < (begun[one].stable_end or 0)}
    got = await fetch(broker, left, bytes_each=1, committed=True) if left else {}
    waiting = {one for one, fetched in got.items() if fetched.records} | (left.keys() - got.keys())
    return frozenset(starts.keys() - waiting)


async def _topics(
    broker: Broker, names: Iterable[str], shrinks: Mapping[str, tuple[Shrink, ...]]
) -> dict[str, TopicSeen]:
    found = {}
    settings, unknown = await _settings(broker, names)
    for name in sorted(names):
        partitions = broker.partitions(name)
        if not partitions:
            found[name] = TopicSeen(name, exists=False, shrinks=shrinks.get(name, ()))
            continue
        starts = await broker.offsets(partitions, EARLIEST)
        # The end first: a log with no open transaction is then stable to there.
        ends = await broker.offsets(partitions, LATEST)
        stable = await broker.offsets(partitions, LATEST, committed_only=True)
        begun = await open_transactions(
            broker, {one: stable[one] for one in stable if stable[one] < ends.get(one, 0)}
        )
        own = settings.get(name, {})
        found[name] = TopicSeen(
            name=name,
            exists=True,
            logs={
                one[1]: log_seen(starts.get(one, 0), ends[one], stable.get(one), begun.get(one))
                for one in ends
            },
            retention_seconds=_retention_seconds(own.get("retention.ms")),
            compacted="compact" in own.get("cleanup.policy", ""),
            shrinks=shrinks.get(name, ()),
            settings=None if own else unknown,
        )
    return found


def log_seen(
    start: int, end: int, stable_end: int | None, transaction: TransactionSeen | None
) -> LogSeen:
    """Put together what was asked of a log; one whose transactions have ended is stable."""
    if stable_end is None:
        return LogSeen(start, end)
    stable = end if transaction is None else min(stable_end, end)
    return LogSeen(start, end, stable_end=stable, transaction=transaction)


async def _settings(
    broker: Broker, names: Iterable[str]
) -> tuple[dict[str, dict[str, str]], Missing]:
    """Read the topics' settings, and say why those are not known that are not among them."""
    what = "how the topics are set (retention.ms, cleanup.policy)"
    refused = Missing(what, Cause.PERMISSION_DENIED, "not permitted", "allow DescribeConfigs")
    try:
        return await broker.topic_settings(names), refused
    except KafkaError as error:
        return {}, broker_missing(what, error)


def _retention_seconds(milliseconds: str | None) -> float | None:
    if milliseconds is None or int(milliseconds) < 0:
        return None
    return int(milliseconds) / 1000


async def read_group(broker: Broker, name: str) -> GroupSeen:
    """Read one group: who is in it, and what it has committed."""
    described = await broker.members(name)
    return _seen(name, described, await broker.passed(name, described.kind))


def _seen(name: str, described: GroupMembers, committed: Mapping[Partition, int]) -> GroupSeen:
    return GroupSeen(
        name=name,
        exists=described.state != DEAD,
        state=described.state,
        members=described.members,
        subscribed=described.subscribed if described.members else None,
        assigned=described.assigned if described.members else None,
        committed=committed,
        kind=described.kind,
        never_joined=described.never_joined,
    )


async def other_readers(broker: Broker, flow: Flow) -> tuple[GroupSeen, ...] | Missing:
    """Return which other groups read the events topics: the setting may name the wrong one.

    Every group of the cluster is asked, several at a time; Missing when that takes too long.
    """
    events = [one for topic in flow.topics for one in broker.partitions(topic)]
    try:
        async with asyncio.timeout(_PART_SECONDS):
            return tuple(await groups_that_read(broker, events, flow.processor_groups))
    except READING_FAILURES as error:
        return broker_missing("the consumer groups", error)


async def groups_that_read(
    broker: Broker, events: Collection[Partition], but: Collection[str]
) -> list[GroupSeen]:
    """Ask every group of the cluster but some whether it reads these partitions.

    Raises:
        READING_FAILURES: the broker is away, or does not permit it.
    """
    at_once = asyncio.Semaphore(_GROUPS_AT_ONCE)

    async def asked(name: str, state: str, kind: str) -> GroupSeen | None:
        async with at_once:
            return await _reader(broker, name, state, kind, events)

    others = [one for one in await broker.listed_groups() if one[0] not in but]
    found = await asyncio.gather(*(asked(*one) for one in others), return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if isinstance(one, GroupSeen)]


async def _reader(
    broker: Broker, name: str, state: str, kind: str, events: Collection[Partition]
) -> GroupSeen | None:
    """Return a group if it reads the events, or nobody can say that it does not."""
    unseen = GroupSeen(name, exists=True, state=state, members=None, kind=kind)
    if kind == SHARE:
        passed = await broker.passed(name, kind)
        own = {one: offset for one, offset in passed.items() if one in events}
        return replace(unseen, committed=own) if own or not passed else None
    try:
        committed = await broker.committed(name, events)
        if not committed and state == _EMPTY:
            return None
        described = await broker.members(name) if kind in _DESCRIBED else None
    except GroupAuthorizationFailedError:
        return unseen
    if described is None:
        return replace(unseen, committed=committed)
    group = _seen(name, described, committed)
    topics = {topic for topic, _ in events}
    asks = bool((group.subscribed or frozenset()) & topics)
    return group if committed or asks or group.members is None else None


async def other_members(broker: Broker, flow: Flow) -> tuple[str, ...]:
    """Return which other groups with members read the events topics, as far as that can be seen."""
    readers = await other_readers(broker, flow)
    found = () if isinstance(readers, Missing) else readers
    return tuple(one.name for one in found if one.members)


def _named(group: GroupSeen) -> str:
    if group.members is None and not group.committed:
        return f"{group.name} perhaps ({group.kind} group, whose topics the broker does not say)"
    return group.name


async def read_again(
    broker: Broker, groups: Mapping[str, GroupSeen], wanted: Collection[Partition]
) -> Mapping[str, GroupSeen]:
    """Read committed offsets once more, a moment later: does it move?"""
    later = {}
    for name, group in groups.items():
        try:
            now = await broker.passed(name, group.kind)
        except READING_FAILURES:
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
