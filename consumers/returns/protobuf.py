"""Hop 5: returns in Protobuf, by the descriptors that `protoc` wrote; no registry is asked.

Invariant: a value is one message of the named type, bare or in Confluent's framing; another
message of the same file is refused, whatever its bytes would read as.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError

from relay.consumers.returns.decoding import (
    FRAMING,
    FRAMING_BYTES,
    UndecodableError,
    require_status,
)
from relay.kafka.consumer.partitions import Record
from relay.runtime.flow import Decoding
from relay.runtime.settings_sources import SettingsError

_FURTHER = 0x80
_LONGEST_PATH = 32


@dataclass(frozen=True, slots=True)
class ProtobufDecoder:
    """Messages of one type.

    Attributes:
        place: of the type in its file: Confluent's framing says it so.
    """

    kind: Any
    name: str
    place: tuple[int, ...]

    async def prepare(self, values: Iterable[bytes]) -> None:
        """Nothing has to be asked."""

    def decode(self, record: Record) -> Any:
        """Return what the value says, by the names of the .proto file."""
        data = self._message(bytes(record.value or b""))
        try:
            found = json_format.MessageToDict(
                self.kind.FromString(data),
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
        except (DecodeError, json_format.Error, TypeError, ValueError, RecursionError) as error:
            raise UndecodableError(f"not a {self.name}: {type(error).__name__}") from error
        # proto3 writes no field that is empty: an empty text is one that is not there.
        return {name: value for name, value in found.items() if value != ""}

    def _message(self, value: bytes) -> bytes:
        """Return the bytes of the message; no message begins with a zero, and framing does."""
        if value[:1] != bytes([FRAMING]):
            return value
        place, rest = _place(value[FRAMING_BYTES:])
        if place != self.place:
            raise UndecodableError(f"another message of its schema than {self.name}")
        return rest


def _place(data: bytes) -> tuple[tuple[int, ...], bytes]:
    """Read which message of the schema it is: zigzag numbers, the count first; 0 is the first."""
    count, data = _number(data)
    if not 0 <= count <= _LONGEST_PATH:
        raise UndecodableError("not in Confluent's framing")
    place = []
    for _ in range(count):
        one, data = _number(data)
        place.append(one)
    return tuple(place) or (0,), data


def _number(data: bytes) -> tuple[int, bytes]:
    shifted = value = 0
    for at, byte in enumerate(data[:10]):
        value |= (byte & (_FURTHER - 1)) << shifted
        if byte < _FURTHER:
            return (value >> 1) ^ -(value & 1), data[at + 1 :]
        shifted += 7
    raise UndecodableError("not in Confluent's framing")


def protobuf_decoder(decoding: Decoding) -> ProtobufDecoder:
    """Return the decoder; raises SettingsError where file or message cannot be used."""
    file, name = decoding.schema_file, decoding.message
    assert file is not None, "DecoderSettings asks for both"
    assert name is not None, "DecoderSettings asks for both"
    try:
        described = descriptor_pb2.FileDescriptorSet.FromString(Path(file).read_bytes())
        pool = descriptor_pool.DescriptorPool()
        for one in described.file:
            pool.Add(one)
        found = pool.FindMessageTypeByName(name)
    except OSError as error:
        raise SettingsError(f"decoder: schema_file: {error}") from error
    except (DecodeError, TypeError) as error:
        raise SettingsError(
            f"decoder: schema_file {file}: {error}: write it with"
            " `protoc --include_imports --descriptor_set_out`"
        ) from error
    except KeyError:
        names = ", ".join(_names(described)[:20]) or "no message"
        raise SettingsError(f"decoder: message {name!r} is not in {file}: {names}") from None
    require_status(decoding, list(found.fields_by_name))
    return ProtobufDecoder(message_factory.GetMessageClass(found), name, _place_of(found))


def _names(described: Any) -> list[str]:
    return [
        f"{file.package}.{message.name}".removeprefix(".")
        for file in described.file
        for message in file.message_type
    ]


def _place_of(message: Any) -> tuple[int, ...]:
    outer = message.containing_type
    beside = message.file.message_types_by_name if outer is None else outer.nested_types_by_name
    own = list(beside).index(message.name)
    return (own,) if outer is None else (*_place_of(outer), own)
