"""Hop 5: what a decoder of returns is, and which one a flow has.

Invariant: a value that is not what the decoder reads is one return's fault and is held; a decoder
that cannot work now (its registry is away) is an outage and is waited out; one that can never work
is an error at start. No error holds anything of a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, Protocol
from uuid import UUID

from relay.kafka.consumer.partitions import Record
from relay.runtime.flow import Decoding
from relay.runtime.settings_sources import SettingsError

FRAMING = 0
"""The first byte of Confluent's framing; four bytes of a schema's number follow."""

FRAMING_BYTES = 5


class UndecodableError(Exception):
    """The value is not what the decoder reads; the message says why, for a person."""


class UnknownSchemaError(UndecodableError):
    """Nobody knows the value's schema, and so nobody can say that the value is wrong."""


class DecoderUnavailableError(ConnectionError):
    """The decoder cannot work now: what it asks does not answer, or refuses.

    Attributes:
        hint: what to do.
    """

    hint = "bring the schema registry back, or correct [registry]; everything goes on by itself"


class Decoder(Protocol):
    """Makes a mapping of a record's value."""

    async def prepare(self, values: Iterable[bytes]) -> None:
        """Get ready for these values: what has to be asked is asked here, and kept.

        Raises:
            DecoderUnavailableError: it could not be asked.
        """

    def decode(self, record: Record) -> Any:
        """Return what the value says.

        Raises:
            UndecodableError: it is not what this decoder reads.
            DecoderUnavailableError: nobody made it ready for this value, or it cannot work now.
        """


@lru_cache(maxsize=64)
def decoder_for(decoding: Decoding) -> Decoder | None:
    """Return a flow's decoder, one for the whole process; None: JSON, which needs none.

    Raises:
        SettingsError: a file, a function or a package is missing or unfit; it is named.
    """
    # Each needs packages of an extra, or the user's own.
    try:
        if decoding.format == "avro":
            from relay.consumers.returns.avro import avro_decoder  # noqa: PLC0415

            return avro_decoder(decoding)
        if decoding.format == "protobuf":
            from relay.consumers.returns.protobuf import protobuf_decoder  # noqa: PLC0415

            return protobuf_decoder(decoding)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"decoder: format {decoding.format}: {error}:"
            f" pip install 'outbox-relay[{decoding.format}]'"
        ) from error
    if decoding.format == "python":
        from relay.consumers.returns.own_function import function_decoder  # noqa: PLC0415

        return function_decoder(decoding)
    return None


def picked(decoding: Decoding, value: Any) -> dict[str, Any]:
    """Return the fields that a return is read by, in plain types.

    Raises:
        UndecodableError: the value is no mapping.
    """
    if not isinstance(value, Mapping):
        raise UndecodableError(f"an object with fields is needed, not {type(value).__name__}")
    where = dict(decoding.fields)
    return {
        name: _plain(_found(value, where.get(name, (name,))))
        for name in ("order_id", "status", "reason")
    }


def require_status(decoding: Decoding, names: Sequence[str]) -> None:
    """Raise SettingsError where none of the schema's fields can be the status."""
    path = dict(decoding.fields).get("status", ("status",))
    if path[0] not in names:
        raise SettingsError(
            f"decoder: the schema has no field {path[0]!r} for the status; it has"
            f' {", ".join(names) or "none"}: say fields = {{ status = "..." }}'
        )


def _found(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        value = value.value
    return str(value) if isinstance(value, UUID) else value
