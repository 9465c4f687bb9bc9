"""Hops 2 to 5: asks the broker what is where: topics, log ends, groups; it changes nothing.

Invariant: no topic is ever created by asking for it, no group is joined, nothing is committed. All
errors are aiokafka's or TimeoutError; who gathers turns them into `Missing`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, for_code
from aiokafka.protocol.admin import (
    DescribeConfigsRequest,
    DescribeGroupsRequest,
    ListGroupsRequest,
)
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from relay.kafka.failures import BROKER_FAILURES
from relay.kafka.groups import (
    CLASSIC,
    DEAD,
    SHARE,
    GroupMembers,
    of_classic,
    of_new_protocol,
)
from relay.kafka.partition import Partition
from relay.kafka.refusal import refusal
from relay.kafka.requests import (
    CANNOT_BE_ASKED,
    describe_consumer_group_request,
    describe_share_offsets_request,
    list_typed_groups_request,
)
from relay.runtime.kafka_connection import KafkaConnection

REQUEST_SECONDS: Final = 5.0
LATEST: Final = -1
EARLIEST: Final = -2
_CLOSE_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 0.1
_TOPIC_RESOURCE: Final = 2
_SETTINGS: Final = [
    "retention.ms",
    "cleanup.policy",
    "max.message.bytes",
    "min.insync.replicas",
    "unclean.leader.election.enable",
]
_GROUP_COORDINATOR: Final = 0
_READ_UNCOMMITTED, _READ_COMMITTED = 0, 1
# Coordinator loading, not available, not this one: it moves; ask again.
_COORDINATOR_MOVES: Final = frozenset({14, 15, 16})
# No such group of this kind; the protocol is turned off; its topics may not be seen (the list of
# groups still tells that it is there).
_NO_SUCH_GROUP: Final = frozenset({69, 35, 29})
# Leader moves, or the partition is gone: no answer now.
_NOT_LEADER: Final = frozenset({3, 5, 6, 9})


@dataclass(slots=True)
class Broker:
    """A connection to a cluster, for reading.

    Attributes:
        leaders: by partition, of every topic that exists; -1 where there is none now.
        stale: a partition was not where it should be: `refresh` before the next question.
    """

    client: AIOKafkaClient
    leaders: dict[Partition, int] = field(default_factory=dict)
    internal: frozenset[str] = frozenset()
    stale: bool = False
    _coordinators: dict[str, int] = field(default_factory=dict)

    async def refresh(self) -> None:
        """Read which topics there are, and who leads their partitions."""
        # None asks for all of them: a request that names one would create it where it is missing.
        answer = await self.send(MetadataRequest(None))
        self.client.cluster.update_metadata(answer)
        self.stale = False
        self.leaders = {
            Partition(topic, number): leader
            for error, topic, _internal, partitions in answer.topics
            if not error
            for _error, number, leader, *_ in partitions
        }
        self.internal = frozenset(topic for _error, topic, internal, _ in answer.topics if internal)

    def partitions(self, topic: str) -> list[Partition]:
        """Return a topic's partitions in order; none when there is no such topic."""
        return sorted(one for one in self.leaders if one[0] == topic)

    async def send(self, request: Any, node: Any = None) -> Any:
        """Send one request, to any broker unless one is named."""
        chosen = self.client.get_random_node() if node is None else node
        if chosen is None:
            raise KafkaConnectionError("no broker is known")
        return await self.client.send(chosen, request)

    def by_leader(self, partitions: Iterable[Partition]) -> dict[int, list[Partition]]:
        """Group partitions by their leader; those without one are left out."""
        led: defaultdict[int, list[Partition]] = defaultdict(list)
        for partition in partitions:
            leader = self.leaders.get(partition, -1)
            if leader >= 0:
                led[leader].append(partition)
        return dict(led)

    async def offsets(
        self, partitions: Collection[Partition], at: int, *, committed_only: bool = False
    ) -> dict[Partition, int]:
        """Return log ends (LATEST), starts (EARLIEST), or the first offsets since a time in ms.

        A partition without an answer (no leader, no record since then) is absent.

        Args:
            partitions: existing ones.
            at: LATEST, EARLIEST or milliseconds since 1970.
            committed_only: the end before the first open transaction.
        """
        level = _READ_COMMITTED if committed_only else _READ_UNCOMMITTED
        found: dict[Partition, int] = {}
        for leader, led in self.by_leader(partitions).items():
            request = OffsetRequest(-1, level, _by_topic(led, lambda _one: at))
            answer = await self.send(request, leader)
            for topic, asked in answer.topics:
                for number, error, _timestamp, offset in asked:
                    if error and error not in _NOT_LEADER:
                        raise for_code(error)(f"{topic}[{number}]")
                    self.stale = self.stale or bool(error)
                    if not error and offset >= 0:
                        found[Partition(topic, number)] = offset
        return found

    async def topic_settings(self, topics: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return what each topic is set to; one that may not be asked about is absent."""
        asked = [(_TOPIC_RESOURCE, topic, _SETTINGS) for topic in topics]
        if not asked:
            return {}
        answer = await self.send(DescribeConfigsRequest(asked))
        return {
            topic: {entry[0]: entry[1] for entry in entries}
            for error, _message, _kind, topic, entries in answer.resources
            if not error
        }

    async def committed(
        self, group: str, partitions: Iterable[Partition] | None = None
    ) -> dict[Partition, int]:
        """Return a group's committed offsets; none when there is no such group.

        Args:
            group: its name.
            partitions: asked for; None: all that it has committed.

        Raises:
            GroupAuthorizationFailedError: it may not be asked.
        """
        asked = None
        if partitions is not None:
            asked = [
                (topic, [number for number, _ in numbers])
                for topic, numbers in _by_topic(partitions, lambda _one: None)
            ]
        answer = await self.ask_coordinator(group, OffsetFetchRequest(group, asked))
        return {
            Partition(topic, number): offset
            for topic, partitions in answer.topics
            for number, offset, _metadata, error in partitions
            if not error and offset >= 0
        }

    async def share_offsets(self, group: str) -> dict[Partition, int]:
        """Return where a share group stands: every record before was accepted, or given up.

        Nothing where the broker cannot be asked, or the group has read nothing yet.
        """
        try:
            answer = await self.ask_coordinator(group, describe_share_offsets_request(group))
        except CANNOT_BE_ASKED:
            return {}
        return {
            Partition(topic, number): offset
            for _name, topics, error, *_ in answer.groups
            if not error
            for topic, _id, partitions, _tags in topics
            for number, offset, _epoch, refused, *_ in partitions
            if not refused and offset >= 0
        }

    async def passed(self, group: str, kind: str) -> dict[Partition, int]:
        """Return what a group has come past, in whatever way its kind keeps that.

        Raises:
            GroupAuthorizationFailedError: it may not be asked.
        """
        return await (self.share_offsets(group) if kind == SHARE else self.committed(group))

    async def members(self, group: str) -> GroupMembers:
        """Return who is in a group, of whatever protocol; state `Dead` when there is no such group.

        Raises:
            GroupAuthorizationFailedError: it may not be asked.
        """
        answer = await self.ask_coordinator(group, DescribeGroupsRequest([group]))
        described = of_classic(answer.groups[0])
        if described.state != DEAD:
            return described
        return await self._of_new_protocol(group) or await self._listed(group) or described

    async def _of_new_protocol(self, group: str) -> GroupMembers | None:
        """Ask as KIP-848 has it; None: there is no such group, or the broker has no such groups."""
        try:
            request = describe_consumer_group_request(group)
            answer = await self.ask_coordinator(group, request, bearable=_NO_SUCH_GROUP)
        except CANNOT_BE_ASKED:
            return None
        (described,) = answer.groups
        return None if described[0] else of_new_protocol(described)

    async def _listed(self, group: str) -> GroupMembers | None:
        """Return what the list says of a group that cannot be described; None: it is not in it."""
        listed = {name: (state, kind) for name, state, kind in await self.listed_groups()}
        if group not in listed:
            return None
        state, kind = listed[group]
        return GroupMembers(state, None, kind=kind)

    async def listed_groups(self) -> list[tuple[str, str, str]]:
        """Return name, state and kind of all groups that we may see and that may be consumers.

        Raises:
            KafkaError: a coordinator cannot say now which groups it has.
        """
        found: set[tuple[str, str, str]] = set()
        for node in self.client.cluster.brokers():
            of_node = await self._listed_by(node.nodeId)
            # Who lists a group coordinates it.
            self._coordinators.update((name, node.nodeId) for name, *_ in of_node)
            found.update(of_node)
        return sorted(found)

    async def _listed_by(self, node: int) -> list[tuple[str, str, str]]:
        while True:
            try:
                answer = await self.send(list_typed_groups_request(), node)
                groups = [
                    (name, state, kind.lower())
                    for name, protocol, state, kind, _tags in answer.groups
                    if kind.lower() != CLASSIC or _consumes(protocol)
                ]
            except CANNOT_BE_ASKED:
                # An older broker: its groups are of the classic protocol.
                answer = await self.send(ListGroupsRequest(), node)
                groups = [(name, "", CLASSIC) for name, kind in answer.groups if _consumes(kind)]
            if not answer.error_code:
                return groups
            if answer.error_code not in _COORDINATOR_MOVES:
                raise for_code(answer.error_code)(f"the groups of broker {node}")
            await asyncio.sleep(_RETRY_SECONDS)

    async def ask_coordinator(
        self, group: str, request: Any, bearable: frozenset[int] = frozenset()
    ) -> Any:
        """Ask a group's coordinator, again while it moves, until the caller's time is over.

        `bearable` are the errors that are answers.
        """
        while True:
            known = self._coordinators.pop(group, None)
            coordinator = await self._coordinator(group) if known is None else known
            if coordinator is not None:
                answer = await self.send(request, coordinator)
                error = _error_of(answer)
                if not error or error in bearable:
                    self._coordinators[group] = coordinator
                    return answer
                if error not in _COORDINATOR_MOVES:
                    raise for_code(error)(group)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _coordinator(self, group: str) -> int | None:
        """Find a group's coordinator; None: it moves."""
        found = await self.send(FindCoordinatorRequest(group, _GROUP_COORDINATOR))
        if not found.error_code:
            return int(found.coordinator_id)
        if found.error_code not in _COORDINATOR_MOVES:
            raise for_code(found.error_code)(group)
        return None


@asynccontextmanager
async def connected(
    kafka: KafkaConnection, client_id: str, *, request_seconds: float = REQUEST_SECONDS
) -> AsyncIterator[Broker]:
    """Connect for reading, and read which topics there are.

    Raises:
        KafkaRefusedError: the broker answers, and does not take us.
        KafkaError, TimeoutError, OSError: nobody answers within `request_seconds`.
    """
    client = AIOKafkaClient(
        **kafka.client_options(client_id), request_timeout_ms=int(request_seconds * 1000)
    )
    broker = Broker(client)
    try:
        async with asyncio.timeout(request_seconds):
            await _bootstrap(client, kafka)
            await broker.refresh()
        yield broker
    finally:
        with suppress(*BROKER_FAILURES):
            await asyncio.wait_for(client.close(), _CLOSE_SECONDS)


async def _bootstrap(client: AIOKafkaClient, kafka: KafkaConnection) -> None:
    try:
        await client.bootstrap()
    except KafkaConnectionError as error:
        raise await refusal(kafka) or error from error


def _by_topic(partitions: Iterable[Partition], value: Any) -> list[tuple[str, list[Any]]]:
    grouped: defaultdict[str, list[Any]] = defaultdict(list)
    for one in partitions:
        grouped[one[0]].append((one[1], value(one)))
    return list(grouped.items())


def _consumes(protocol_type: str) -> bool:
    """Tell whether a group is of consumers; one without a protocol assigns partitions itself."""
    return protocol_type in ("consumer", "")


def _error_of(answer: Any) -> int:
    """Return the error of an answer about one group, wherever its version keeps it."""
    if hasattr(answer, "groups"):
        return next(int(field) for field in answer.groups[0] if isinstance(field, int))
    own = int(getattr(answer, "error_code", 0))
    inner = (p[3] for _topic, partitions in answer.topics for p in partitions)
    return own or next((int(error) for error in inner if error in _COORDINATOR_MOVES), 0)
