"""Hops 2 to 5: the requests to a broker that aiokafka 0.14 does not know, each in one version.

Invariant: reads only. A broker that does not know a request's version is never asked: sending it
raises `IncompatibleBrokerVersion`, which the caller takes as "cannot be asked", never as "there is
none". A compact string or array that is null comes as None.

Source: the message schemas of Apache Kafka 4.1, `clients/src/main/resources/common/message`:
Metadata (KIP-516), ListGroups (KIP-518, KIP-848), ConsumerGroupDescribe (KIP-848), DescribeQuorum
(KIP-836), DescribeProducers, ListTransactions and DescribeTransactions (KIP-664),
DescribeShareGroupOffsets (KIP-932).
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

CANNOT_BE_ASKED: Final = (IncompatibleBrokerVersion,)
"""What a request raises to a broker that does not know it."""

_NO: Final = False
_ANY_ID: Final = UUID(int=0)
_TEXT: Final = CompactString("utf-8")
_TEXTS: Final = CompactArray(_TEXT)
_NUMBERS: Final = CompactArray(Int32)
_TAGS: Final = ("tags", TaggedFields)


class Uuid(AbstractType[UUID]):  # type: ignore[misc]
    """Kafka's UUID: 16 bytes."""

    @classmethod
    def encode(cls, value: UUID) -> bytes:
        """Return its bytes."""
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        """Take it from where `data` stands."""
        return UUID(bytes=data.read(16))


class _OneVersion(Request[RequestStruct]):  # type: ignore[misc]
    """A request that is spelled out in one version of its schema."""

    API_KEY: ClassVar[int] = -1

    def __init__(self, struct: type[RequestStruct], *values: Any) -> None:
        self._struct, self._values = struct, values

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """Return what is sent to a broker that speaks these versions."""
        low, high = versions.get(self._struct.API_KEY, (0, -1))
        if not low <= self._struct.API_VERSION <= high:
            raise IncompatibleBrokerVersion(
                f"{self._struct.__name__} needs version {self._struct.API_VERSION};"
                f" the broker speaks {low} to {high}"
            )
        return self.build(self._struct)

    def build(self, request_struct_class: type[RequestStruct]) -> Any:
        """Return it; it has no tagged fields."""
        return request_struct_class(*self._values, {})


def _rows(*fields: Any) -> CompactArray:
    return CompactArray(*fields, _TAGS)


def _struct(
    name: str, api_key: int, version: int, asked: tuple[Any, ...], answered: tuple[Any, ...]
) -> type[RequestStruct]:
    """Make the class of a request in a flexible version, and that of its answer."""
    one = {"API_KEY": api_key, "API_VERSION": version}
    answer = type(f"{name}Response", (Response,), one | {"SCHEMA": Schema(*answered, _TAGS)})
    struct = {"FLEXIBLE_VERSION": True, "RESPONSE_TYPE": answer, "SCHEMA": Schema(*asked, _TAGS)}
    return type(name, (RequestStruct,), one | struct)


_METADATA: Final = _struct(
    "Metadata",
    3,
    10,
    (
        ("topics", _rows(("topic_id", Uuid), ("topic", _TEXT))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    ),
    (
        ("throttle_time_ms", Int32),
        (
            "brokers",
            _rows(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT)),
        ),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            _rows(
                ("error_code", Int16),
                ("topic", _TEXT),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    _rows(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", _NUMBERS),
                        ("isr", _NUMBERS),
                        ("offline_replicas", _NUMBERS),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("authorized_operations", Int32),
    ),
)


def describe_topics_request(topics: Sequence[str], *, with_operations: bool) -> _OneVersion:
    """Ask any broker for topics by name, with their ids; Kafka 2.8 and newer. It makes none."""
    named: list[tuple[UUID, str, dict[int, bytes]]] = [(_ANY_ID, topic, {}) for topic in topics]
    return _OneVersion(_METADATA, named, _NO, _NO, with_operations)


_REPLICAS: Final = _rows(
    ("replica_id", Int32),
    ("log_end_offset", Int64),
    ("last_fetch_timestamp", Int64),
    ("last_caught_up_timestamp", Int64),
)
_DESCRIBE_QUORUM: Final = _struct(
    "DescribeQuorum",
    55,
    1,
    (("topics", _rows(("topic", _TEXT), ("partitions", _rows(("partition", Int32))))),),
    (
        ("error_code", Int16),
        (
            "topics",
            _rows(
                ("topic", _TEXT),
                (
                    "partitions",
                    _rows(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("high_watermark", Int64),
                        ("voters", _REPLICAS),
                        ("observers", _REPLICAS),
                    ),
                ),
            ),
        ),
    ),
)


def describe_quorum_request() -> _OneVersion:
    """Ask any broker for KRaft's voters; Kafka 3.3 and newer."""
    return _OneVersion(_DESCRIBE_QUORUM, [("__cluster_metadata", [(0, {})], {})])


_ASSIGNMENT: Final = Schema(
    (
        "topic_partitions",
        _rows(("topic_id", Uuid), ("topic", _TEXT), ("partitions", _NUMBERS)),
    ),
    _TAGS,
)
_CONSUMER_GROUP_DESCRIBE: Final = _struct(
    "ConsumerGroupDescribe",
    69,
    0,
    (("groups", _TEXTS), ("with_operations", Boolean)),
    (
        ("throttle_time_ms", Int32),
        (
            "groups",
            _rows(
                ("error_code", Int16),
                ("error_message", _TEXT),
                ("group", _TEXT),
                ("state", _TEXT),
                ("group_epoch", Int32),
                ("assignment_epoch", Int32),
                ("assignor", _TEXT),
                (
                    "members",
                    _rows(
                        ("member_id", _TEXT),
                        ("instance_id", _TEXT),
                        ("rack_id", _TEXT),
                        ("member_epoch", Int32),
                        ("client_id", _TEXT),
                        ("client_host", _TEXT),
                        ("subscribed_topics", _TEXTS),
                        ("subscribed_regex", _TEXT),
                        ("assignment", _ASSIGNMENT),
                        ("target_assignment", _ASSIGNMENT),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
    ),
)


def describe_consumer_group_request(group: str) -> _OneVersion:
    """Ask a group's coordinator who is in it; it is of KIP-848's protocol."""
    return _OneVersion(_CONSUMER_GROUP_DESCRIBE, [group], _NO)


_SHARE_GROUP_OFFSETS: Final = _struct(
    "DescribeShareGroupOffsets",
    90,
    0,
    (
        (
            "groups",
            _rows(("group", _TEXT), ("topics", _rows(("topic", _TEXT), ("partitions", _NUMBERS)))),
        ),
    ),
    (
        ("throttle_time_ms", Int32),
        (
            "groups",
            _rows(
                ("group", _TEXT),
                (
                    "topics",
                    _rows(
                        ("topic", _TEXT),
                        ("topic_id", Uuid),
                        (
                            "partitions",
                            _rows(
                                ("partition", Int32),
                                ("start_offset", Int64),
                                ("leader_epoch", Int32),
                                ("error_code", Int16),
                                ("error_message", _TEXT),
                            ),
                        ),
                    ),
                ),
                ("error_code", Int16),
                ("error_message", _TEXT),
            ),
        ),
    ),
)


def describe_share_offsets_request(group: str) -> _OneVersion:
    """Ask a share group's coordinator up to where all records were decided on; Kafka 4.1."""
    return _OneVersion(_SHARE_GROUP_OFFSETS, [(group, None, {})])


_LIST_GROUPS: Final = _struct(
    "ListGroups",
    16,
    5,
    (("states", _TEXTS), ("types", _TEXTS)),
    (
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        (
            "groups",
            _rows(
                ("group", _TEXT), ("protocol_type", _TEXT), ("state", _TEXT), ("group_type", _TEXT)
            ),
        ),
    ),
)


def list_typed_groups_request() -> _OneVersion:
    """Ask a broker for every group that it coordinates, with its type; Kafka 3.8 and newer."""
    return _OneVersion(_LIST_GROUPS, [], [])


_DESCRIBE_PRODUCERS: Final = _struct(
    "DescribeProducers",
    61,
    0,
    (("topics", _rows(("topic", _TEXT), ("partitions", _NUMBERS))),),
    (
        ("throttle_time_ms", Int32),
        (
            "topics",
            _rows(
                ("topic", _TEXT),
                (
                    "partitions",
                    _rows(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", _TEXT),
                        (
                            "producers",
                            _rows(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("transaction_start_offset", Int64),
                            ),
                        ),
                    ),
                ),
            ),
        ),
    ),
)


def describe_producers_request(topics: Sequence[tuple[str, Sequence[int]]]) -> _OneVersion:
    """Ask the partitions' leader who writes to them, and where a transaction is open."""
    named: list[tuple[str, list[int], dict[int, bytes]]] = [
        (topic, list(numbers), {}) for topic, numbers in topics
    ]
    return _OneVersion(_DESCRIBE_PRODUCERS, named)


_LIST_TRANSACTIONS: Final = _struct(
    "ListTransactions",
    66,
    0,
    (("states", _TEXTS), ("producer_ids", CompactArray(Int64))),
    (
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_states", _TEXTS),
        (
            "transactions",
            _rows(("transactional_id", _TEXT), ("producer_id", Int64), ("state", _TEXT)),
        ),
    ),
)


def list_transactions_request(producer_ids: Sequence[int]) -> _OneVersion:
    """Ask a broker for the transactions of some producers that it coordinates."""
    return _OneVersion(_LIST_TRANSACTIONS, [], list(producer_ids))


_DESCRIBE_TRANSACTIONS: Final = _struct(
    "DescribeTransactions",
    65,
    0,
    (("transactional_ids", _TEXTS),),
    (
        ("throttle_time_ms", Int32),
        (
            "transactions",
            _rows(
                ("error_code", Int16),
                ("transactional_id", _TEXT),
                ("state", _TEXT),
                ("timeout_ms", Int32),
                ("start_time_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("topics", _rows(("topic", _TEXT), ("partitions", _NUMBERS))),
            ),
        ),
    ),
)


def describe_transactions_request(transactional_ids: Sequence[str]) -> _OneVersion:
    """Ask their coordinator since when transactions are open, and what may end them."""
    return _OneVersion(_DESCRIBE_TRANSACTIONS, list(transactional_ids))
