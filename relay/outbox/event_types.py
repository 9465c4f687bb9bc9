"""Hop 1's event types: which may be appended, and which schema their payloads must match.

Invariant: an event type that nobody registered is refused, so that a misspelt one cannot reach the
relay, which could only park it. Schemas are read and compiled at the first event of their type;
a schema that cannot be read or is no schema raises then, before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Protocol

from relay.outbox.errors import SchemaMismatchError, UnknownEventTypeError
from relay.runtime.resources import schemas_folder

_REASON_LIMIT: Final = 300


class _Validator(Protocol):
    """The part of a `jsonschema_rs` validator that is used here."""

    def iter_errors(self, instance: object) -> Any: ...


@dataclass(frozen=True, slots=True)
class EventType:
    """What an event's payload must look like.

    `schema` is the text of a JSON Schema 2020-12; None takes any object. `order_id_field` names the
    payload's member that must repeat the event's `aggregate_id`; None when it has none.
    """

    schema: str | None
    order_id_field: str | None = None


@dataclass(frozen=True, slots=True)
class EventTypes:
    """The event types that `append` takes."""

    known: Mapping[str, EventType] = field(default_factory=dict)

    @classmethod
    def of(cls, *event_types: str) -> EventTypes:
        """The shop's own types, each with any JSON object as its payload."""
        return cls({name: EventType(None) for name in event_types})

    def with_type(
        self, event_type: str, schema: Mapping[str, Any] | None, order_id_field: str | None = None
    ) -> EventTypes:
        """These types and one more; `schema` None takes any JSON object."""
        text = None if schema is None else json.dumps(schema)
        return EventTypes({**self.known, event_type: EventType(text, order_id_field)})

    def require(self, event_type: str) -> EventType:
        """Return what is known of a type.

        Raises:
            UnknownEventTypeError: the type is not registered.
        """
        known = self.known.get(event_type)
        if known is None:
            raise UnknownEventTypeError(
                f"{event_type!r} is not registered; known: {', '.join(sorted(self.known))}."
                " Register it: EventTypes.with_type(name, schema)",
                "event_type",
            )
        return known

    def check(self, event_type: str, aggregate_id: str, document: Mapping[str, Any]) -> None:
        """Refuse a payload that its type does not allow.

        Raises:
            UnknownEventTypeError: the type is not registered.
            SchemaMismatchError: the payload does not match, or names another order.
        """
        known = self.require(event_type)
        if known.schema is not None:
            _match(_validator(known.schema), document)
        if known.order_id_field is not None:
            _same_order(document, known.order_id_field, aggregate_id)


def _match(validator: _Validator, document: Mapping[str, Any]) -> None:
    for error in validator.iter_errors(document):
        path = "".join(f"/{_escaped(part)}" for part in error.instance_path)
        raise SchemaMismatchError(error.message[:_REASON_LIMIT], path)


def _escaped(part: str | int) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def explain_sample(error: SchemaMismatchError, event_type: str) -> None:
    """Say on an error that it was the sample's own schema which refused the payload."""
    error.add_note(
        f"{event_type} has the sample's schema here; for a payload of your own give"
        f" event_types=EventTypes.of({event_type!r}), or a schema: with_type(name, schema)"
    )


def _same_order(document: Mapping[str, Any], name: str, aggregate_id: str) -> None:
    if document.get(name) != aggregate_id:
        raise SchemaMismatchError("is not the event's aggregate_id", f"/{name}")


@cache
def _validator(schema: str) -> _Validator:
    # Imported here: an order service pays for it with its first event, not with its start.
    import jsonschema_rs  # noqa: PLC0415

    return jsonschema_rs.Draft202012Validator(
        json.loads(schema), validate_formats=True, mask="the value"
    )


@cache
def standard() -> EventTypes:
    """The project's own event types, with the schemas of `schemas/events/`."""
    return EventTypes(
        {
            name: EventType(_schema_text(name), "order_id")
            for name in ("order.placed", "order.returned")
        }
    )


def _schema_text(event_type: str) -> str:
    return (schemas_folder() / "events" / f"{event_type}.json").read_text("utf-8")
