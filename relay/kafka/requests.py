"""Hops 3 to 5: questions to the broker that aiokafka 0.14 does not know: groups and transactions.

Invariant: reads only. Each request is spelled out in one version of its schema; a broker that does
not know it gives `IncompatibleBrokerVersion` or `NotImplementedError`, which the caller takes as
"cannot be asked", never as "there is none".

Source: the message schemas of Apache Kafka 4.1, `clients/src/main/resources/common/message`:
ConsumerGroupDescribe (KIP-848), ListGroups (KIP-518, KIP-848), DescribeProducers,
ListTransactions and DescribeTransactions (KIP-664).
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, ClassVar, Final
from uuid import UUID

from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

CANNOT_BE_ASKED: Final = (IncompatibleBrokerVersion, NotImplementedError)
"""What a request raises to a broker that does not know it."""

_TEXT: Final = CompactString("utf-8")
_TAGS: Final = ("tags", TaggedFields)


class Uuid(AbstractType[UUID]):  # type: ignore[misc]
    """Kafka's UUID: 16 bytes."""

    @classmethod
    def encode(cls, value: UUID) -> bytes:
        """Write it."""
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        """Read it."""
        return UUID(bytes=data.read(16))


_ASSIGNMENT: Final = Schema(
    (
        "topic_partitions",
        CompactArray(
            ("topic_id", Uuid), ("topic", _TEXT), ("partitions", CompactArray(Int32)), _TAGS
        ),
    ),
    _TAGS,
)


class _ConsumerGroupDescribeResponse(Response):  # type: ignore[misc]
    API_KEY = 69
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            CompactArray(
                ("error_code", Int16),
                ("error_message", _TEXT),
                ("group", _TEXT),
                ("state", _TEXT),
                ("group_epoch", Int32),
                ("assignment_epoch", Int32),
                ("assignor", _TEXT),
                (
                    "members",
                    CompactArray(
                        ("member_id", _TEXT),
                        ("instance_id", _TEXT),
                        ("rack_id", _TEXT),
                        ("member_epoch", Int32),
                        ("client_id", _TEXT),
                        ("client_host", _TEXT),
                        ("subscribed_topics", CompactArray(_TEXT)),
                        ("subscribed_regex", _TEXT),
                        ("assignment", _ASSIGNMENT),
                        ("target_assignment", _ASSIGNMENT),
                        _TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _ConsumerGroupDescribeV0(RequestStruct):  # type: ignore[misc]
    API_KEY = 69
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ConsumerGroupDescribeResponse
    SCHEMA = Schema(("groups", CompactArray(_TEXT)), ("with_operations", Boolean), _TAGS)


class ConsumerGroupDescribe(Request[_ConsumerGroupDescribeV0]):  # type: ignore[misc]
    """Who is in a group of KIP-848's protocol; to be sent to the group's coordinator."""

    API_KEY: ClassVar[int] = 69

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_ConsumerGroupDescribeV0]) -> Any:
        """Return the one version that is spelled out."""
        no = False
        return request_struct_class([self._group], no, {})


class _ListGroupsResponse(Response):  # type: ignore[misc]
    API_KEY = 16
    API_VERSION = 5
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        (
            "groups",
            CompactArray(
                ("group", _TEXT),
                ("protocol_type", _TEXT),
                ("state", _TEXT),
                ("group_type", _TEXT),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _ListGroupsV5(RequestStruct):  # type: ignore[misc]
    API_KEY = 16
    API_VERSION = 5
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ListGroupsResponse
    SCHEMA = Schema(("states", CompactArray(_TEXT)), ("types", CompactArray(_TEXT)), _TAGS)


class ListGroupsWithTypes(Request[_ListGroupsV5]):  # type: ignore[misc]
    """Every group that one broker coordinates, with its type; Kafka 3.8 and newer."""

    API_KEY: ClassVar[int] = 16

    def build(self, request_struct_class: type[_ListGroupsV5]) -> Any:
        """Return the one version that is spelled out."""
        return request_struct_class([], [], {})


class _DescribeProducersResponse(Response):  # type: ignore[misc]
    API_KEY = 61
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", _TEXT),
                        (
                            "producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("transaction_start_offset", Int64),
                                _TAGS,
                            ),
                        ),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _DescribeProducersV0(RequestStruct):  # type: ignore[misc]
    API_KEY = 61
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DescribeProducersResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic", _TEXT), ("partitions", CompactArray(Int32)), _TAGS),
        ),
        _TAGS,
    )


class DescribeProducers(Request[_DescribeProducersV0]):  # type: ignore[misc]
    """Who writes to partitions, and where a transaction is open; to be sent to their leader."""

    API_KEY: ClassVar[int] = 61

    def __init__(self, topics: Sequence[tuple[str, Sequence[int]]]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_DescribeProducersV0]) -> Any:
        """Return the one version that is spelled out."""
        topics: list[tuple[str, list[int], dict[int, bytes]]] = [
            (topic, list(numbers), {}) for topic, numbers in self._topics
        ]
        return request_struct_class(topics, {})


class _ListTransactionsResponse(Response):  # type: ignore[misc]
    API_KEY = 66
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_states", CompactArray(_TEXT)),
        (
            "transactions",
            CompactArray(
                ("transactional_id", _TEXT), ("producer_id", Int64), ("state", _TEXT), _TAGS
            ),
        ),
        _TAGS,
    )


class _ListTransactionsV0(RequestStruct):  # type: ignore[misc]
    API_KEY = 66
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ListTransactionsResponse
    SCHEMA = Schema(("states", CompactArray(_TEXT)), ("producer_ids", CompactArray(Int64)), _TAGS)


class ListTransactions(Request[_ListTransactionsV0]):  # type: ignore[misc]
    """The transactions of some producers that one broker coordinates."""

    API_KEY: ClassVar[int] = 66

    def __init__(self, producer_ids: Sequence[int]) -> None:
        self._producer_ids = producer_ids

    def build(self, request_struct_class: type[_ListTransactionsV0]) -> Any:
        """Return the one version that is spelled out."""
        return request_struct_class([], list(self._producer_ids), {})


class _DescribeTransactionsResponse(Response):  # type: ignore[misc]
    API_KEY = 65
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "transactions",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", _TEXT),
                ("state", _TEXT),
                ("timeout_ms", Int32),
                ("start_time_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                (
                    "topics",
                    CompactArray(("topic", _TEXT), ("partitions", CompactArray(Int32)), _TAGS),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _DescribeTransactionsV0(RequestStruct):  # type: ignore[misc]
    API_KEY = 65
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DescribeTransactionsResponse
    SCHEMA = Schema(("transactional_ids", CompactArray(_TEXT)), _TAGS)


class DescribeTransactions(Request[_DescribeTransactionsV0]):  # type: ignore[misc]
    """Since when transactions are open, and what may end them; to be sent to their coordinator."""

    API_KEY: ClassVar[int] = 65

    def __init__(self, transactional_ids: Sequence[str]) -> None:
        self._transactional_ids = transactional_ids

    def build(self, request_struct_class: type[_DescribeTransactionsV0]) -> Any:
        """Return the one version that is spelled out."""
        return request_struct_class(list(self._transactional_ids), {})
