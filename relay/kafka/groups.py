"""Hop 3: who is in a consumer group, whatever protocol the group speaks: one answer for everybody.

Invariant: reads only. "No members" and "no such group" are said only of what the broker describes
so in every protocol that it speaks; where it cannot say, members are None. DescribeGroups alone
calls a group of the new protocols `Dead`.

Source: KIP-848 (consumer groups), KIP-932 (share groups), KIP-1071 (streams groups).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.coordinator.protocol import ConsumerProtocol

from relay.kafka.partition import Partition

DEAD: Final = "Dead"
CLASSIC: Final = "classic"
CONSUMER: Final = "consumer"
# Its progress is kept by record: OffsetFetch knows nothing of it.
SHARE: Final = "share"


@dataclass(frozen=True, slots=True)
class GroupMembers:
    """Who is in a group.

    Attributes:
        state: `Dead` when there is no such group.
        members: None when the broker does not say who they are.
        subscribed: topics they ask for; None when that is not known.
        assigned: partitions they have; None when that is not known.
        kind: the group's protocol in the broker's word: classic, consumer, share, streams.
        never_joined: no member was ever in it: offsets are all that the broker knows of it.
    """

    state: str
    members: int | None
    subscribed: frozenset[str] | None = None
    assigned: frozenset[Partition] | None = None
    kind: str = CLASSIC
    never_joined: bool = False


def of_classic(described: Any) -> GroupMembers:
    """Read one group of a DescribeGroups answer."""
    _error, _name, state, kind, _protocol, members, *_ = described
    if kind not in ("", ConsumerProtocol.PROTOCOL_TYPE):
        return GroupMembers(state, len(members))
    # A group keeps the protocol type of its first member after its last one has left.
    return GroupMembers(
        state,
        len(members),
        _subscribed(members),
        _assigned(members),
        never_joined=state != DEAD and not kind and not members,
    )


def of_new_protocol(described: Any) -> GroupMembers:
    """Read one group of a ConsumerGroupDescribe answer.

    While partitions are handed over, one that a member is about to get counts as assigned.
    """
    _error, _message, _name, state, _epoch, _assigned_at, _assignor, members, *_ = described
    topics: set[str] = set()
    partitions: set[Partition] = set()
    by_pattern = False
    for member in members:
        *_who, names, pattern, current, target, _tags = member
        by_pattern = by_pattern or bool(pattern)
        topics.update(names)
        for assignment in (current, target):
            for _id, topic, numbers, _more in assignment[0]:
                partitions.update(Partition(topic, number) for number in numbers)
    subscribed = None if by_pattern else frozenset(topics)
    return GroupMembers(state, len(members), subscribed, frozenset(partitions), CONSUMER)


def _subscribed(members: Iterable[Any]) -> frozenset[str] | None:
    topics: set[str] = set()
    for _id, _client, _host, metadata, _assignment in members:
        if not metadata:
            return None  # a rebalance is under way, or the member speaks another protocol
        try:
            topics.update(ConsumerProtocol.METADATA.decode(metadata).subscription)
        except (ValueError, TypeError):
            return None
    return frozenset(topics)


def _assigned(members: Iterable[Any]) -> frozenset[Partition] | None:
    partitions: set[Partition] = set()
    for _id, _client, _host, _metadata, assignment in members:
        if not assignment:
            return None
        try:
            decoded = ConsumerProtocol.ASSIGNMENT.decode(assignment)
            partitions.update(Partition(tp.topic, tp.partition) for tp in decoded.partitions())
        except (ValueError, TypeError):
            return None
    return frozenset(partitions)
