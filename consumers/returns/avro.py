"""Hop 5: returns in Avro: in Confluent's framing with a schema registry, or bare with one schema.

Invariant: a schema's number never means another schema, so each is asked for once; one that the
registry does not know is asked for again, with the next value that names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import orjson
from fastavro.schema import SchemaParseException, UnknownType

from relay.consumers.returns.decoding import (
    FRAMING,
    FRAMING_BYTES,
    Decoder,
    DecoderUnavailableError,
    UndecodableError,
    UnknownSchemaError,
    require_status,
)
from relay.consumers.returns.registry import RegisteredSchema, Registry
from relay.kafka.consumer.partitions import Record
from relay.runtime.flow import Decoding
from relay.runtime.settings_sources import SettingsError

_SCHEMA_FAULTS = (SchemaParseException, UnknownType, ValueError, KeyError, TypeError)


def avro_decoder(decoding: Decoding) -> Decoder:
    """Return the decoder; raises SettingsError where the schema's file cannot be used."""
    if decoding.registry is not None:
        return FramedAvro(Registry(decoding.registry))
    assert decoding.schema_file is not None, "one of the two is there (DecoderSettings)"
    try:
        schema = parsed_schema(Path(decoding.schema_file).read_text("utf-8"))
        require_status(decoding, [one["name"] for one in schema.get("fields", ())])
        return BareAvro(schema)
    except OSError as error:
        raise SettingsError(f"decoder: schema_file: {error}") from error
    except (*_SCHEMA_FAULTS, AttributeError) as error:
        raise SettingsError(
            f"decoder: schema_file {decoding.schema_file} is no Avro schema: {error}"
        ) from error


def parsed_schema(text: str, references: Iterable[str] = ()) -> Any:
    """Return a schema that fastavro reads by; each of `references` may use those before it."""
    named: dict[str, Any] = {}
    for one in references:
        fastavro.parse_schema(orjson.loads(one), named_schemas=named)
    return fastavro.parse_schema(orjson.loads(text), named_schemas=named)


def _read(schema: Any, data: bytes) -> Any:
    """Read one value that the bytes are, and nothing besides."""
    stream = BytesIO(data)
    try:
        value = fastavro.schemaless_reader(stream, schema, None)
    except Exception as error:  # fastavro raises what the bytes lead to
        raise UndecodableError(f"not Avro of its schema: {type(error).__name__}") from error
    if stream.tell() != len(data):
        raise UndecodableError(
            f"not Avro of its schema: {len(data) - stream.tell()} bytes too many"
        )
    return value


@dataclass(frozen=True, slots=True)
class BareAvro:
    """Values of one schema, without framing."""

    schema: Any

    async def prepare(self, values: Iterable[bytes]) -> None:
        """Nothing has to be asked."""

    def decode(self, record: Record) -> Any:
        """Return what the value says."""
        return _read(self.schema, bytes(record.value or b""))


@dataclass(slots=True)
class FramedAvro:
    """Values in Confluent's framing; those without it are read as JSON, which no Avro begins like.

    Attributes:
        schemas: number -> the schema, or why there is none.
    """

    registry: Registry
    schemas: dict[int, Any | UnknownSchemaError] = field(default_factory=dict)

    async def prepare(self, values: Iterable[bytes]) -> None:
        """Ask for the schemas that nobody has asked for, or that were not there."""
        numbers = {int.from_bytes(one[1:FRAMING_BYTES], "big") for one in values if _framed(one)}
        for number in sorted(numbers):
            if isinstance(self.schemas.get(number), UnknownSchemaError | None):
                found = await asyncio.to_thread(self.registry.schema, number)
                self.schemas[number] = _usable(number, found)

    def decode(self, record: Record) -> Any:
        """Return what the value says."""
        value = bytes(record.value or b"")
        if not _framed(value):
            return _json(value)
        number = int.from_bytes(value[1:FRAMING_BYTES], "big")
        schema = self.schemas.get(number)
        if schema is None:
            raise DecoderUnavailableError(f"nobody has asked the registry for schema {number} yet")
        if isinstance(schema, UnknownSchemaError):
            raise UnknownSchemaError(str(schema))
        try:
            return _read(schema, value[FRAMING_BYTES:])
        except UndecodableError as error:
            raise UndecodableError(f"schema {number}: {error}") from None


def _framed(value: bytes) -> bool:
    return len(value) >= FRAMING_BYTES and value[0] == FRAMING


def _json(value: bytes) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise UndecodableError(f"neither in Confluent's framing nor JSON: {error}") from None


def _usable(number: int, found: RegisteredSchema | None) -> Any | UnknownSchemaError:
    if found is None:
        return UnknownSchemaError(f"the registry knows no schema {number}")
    if found.kind != "AVRO":
        return UnknownSchemaError(f"schema {number} of the registry is {found.kind}, not Avro")
    try:
        return parsed_schema(found.text, found.references)
    except _SCHEMA_FAULTS as error:
        return UnknownSchemaError(
            f"schema {number} of the registry cannot be used: {type(error).__name__}: {error}"
        )
