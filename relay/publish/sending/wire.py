"""Hop 2: Kafka's bytes around a batch's records: batch header v2, Produce request and response v7.

Invariant: pure; a batch is finished once, with its producer id and sequence, so that every retry of
it is the same bytes and the broker knows it again.

Source: KIP-98 (record batch v2); Kafka protocol guide, Produce API version 7 (Kafka 2.1 and newer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from struct import Struct
from typing import Any, Final

API_KEY: Final = 0
API_VERSION: Final = 7

# Base offset, length, leader epoch, magic | crc | attributes, last offset delta, first and last
# timestamp, producer id and epoch, sequence, count.
_BEFORE_CRC: Final = Struct(">qiibI")
_AFTER_CRC: Final = Struct(">hiqqqhii")
_LENGTH_COVERS_FROM: Final = 12
_NO_LEADER_EPOCH: Final = -1
_MAGIC: Final = 2

_REQUEST_HEADER: Final = Struct(">hhih")
_REQUEST_START: Final = Struct(">hhii")  # no transactional id, acks, timeout, topics
_ALL_REPLICAS: Final = -1
_NO_TRANSACTION: Final = -1
_SHORT: Final = Struct(">h")
_INT: Final = Struct(">i")
_PARTITION: Final = Struct(">ii")
_ANSWER: Final = Struct(">ihqqq")


def checked_part(
    records: bytes, count: int, timestamp_ms: int, codec: int, producer: tuple[int, int, int]
) -> bytes:
    """Return what a batch's checksum covers: the second part of its header, and its records.

    Args:
        records: encoded, and compressed if `codec` is not 0.
        count: how many.
        timestamp_ms: of all of them.
        codec: Kafka's number of the compression.
        producer: id, epoch, and the batch's first sequence.
    """
    return _AFTER_CRC.pack(codec, count - 1, timestamp_ms, timestamp_ms, *producer, count) + records


def batch_start(checked: bytes, crc32c: int) -> bytes:
    """Return what stands before the checked part."""
    length = _BEFORE_CRC.size - _LENGTH_COVERS_FROM + len(checked)
    return _BEFORE_CRC.pack(0, length, _NO_LEADER_EPOCH, _MAGIC, crc32c)


Batches = Mapping[str, Sequence[tuple[int, bytes, bytes]]]
"""Topic -> (partition, start, checked part) of each batch."""


def produce_body(batches: Batches, timeout_ms: int) -> bytes:
    """Encode a Produce request without its header."""
    pieces = [_REQUEST_START.pack(_NO_TRANSACTION, _ALL_REPLICAS, timeout_ms, len(batches))]
    for topic, parts in batches.items():
        name = topic.encode()
        pieces += (_SHORT.pack(len(name)), name, _INT.pack(len(parts)))
        for partition, start, checked in parts:
            pieces += (_PARTITION.pack(partition, len(start) + len(checked)), start, checked)
    return b"".join(pieces)


Answers = dict[tuple[str, int], tuple[int, int]]
"""(Topic, partition) -> (error code, base offset)."""


def produce_answers(body: bytes) -> Answers:
    """Decode a Produce response without its header."""
    answers: Answers = {}
    (topics,) = _INT.unpack_from(body)
    place = _INT.size
    for _ in range(topics):
        (size,) = _SHORT.unpack_from(body, place)
        topic = body[place + _SHORT.size : place + _SHORT.size + size].decode()
        place += _SHORT.size + size
        (partitions,) = _INT.unpack_from(body, place)
        place += _INT.size
        for _ in range(partitions):
            partition, code, offset, _appended_at, _log_start = _ANSWER.unpack_from(body, place)
            answers[topic, partition] = code, offset
            place += _ANSWER.size
    return answers


class ProduceRequest:
    """A Produce request in the shape that aiokafka's connection asks for.

    aiokafka encodes requests field by field and answers the same way, 0.5 ms for each; at 2,000
    orders a second that would be most of the relay's time (benchmarks/latency).
    """

    API_KEY = API_KEY
    API_VERSION = API_VERSION
    required_acks = _ALL_REPLICAS

    def __init__(self, body: bytes) -> None:
        self._body = body

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> ProduceRequest:
        """Check that the broker speaks this version.

        Raises:
            ValueError: it is older than Kafka 2.1.
        """
        lowest, highest = versions.get(API_KEY, (0, 0))
        if not lowest <= API_VERSION <= highest:
            raise ValueError(
                f"the broker speaks Produce {lowest} to {highest}, not {API_VERSION}: Kafka 2.1"
                " or newer is needed"
            )
        return self

    def build_request_header(self, correlation_id: int, client_id: str) -> _Encoded:
        """Encode the header."""
        name = client_id.encode()
        return _Encoded(
            _REQUEST_HEADER.pack(API_KEY, API_VERSION, correlation_id, len(name)) + name
        )

    def encode(self) -> bytes:
        """Return the body, once: it is not held in memory while the broker is waited for."""
        body, self._body = self._body, b""
        return body

    def parse_response_header(self, response: BytesIO) -> _ResponseHeader:
        """Read the response's header."""
        return _ResponseHeader(*_INT.unpack(response.read(_INT.size)))

    class RESPONSE_TYPE:  # noqa: N801 - aiokafka's name
        """Decodes the response's body."""

        @staticmethod
        def decode(response: BytesIO) -> Any:
            """Return the answers."""
            return produce_answers(response.read())


class _Encoded:
    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded

    def encode(self) -> bytes:
        return self._encoded


class _ResponseHeader:
    def __init__(self, correlation_id: int) -> None:
        self.correlation_id = correlation_id
