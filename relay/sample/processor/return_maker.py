"""Hop 4 of the sample: makes returns of answers, and breaks them where a fault says so.

Invariant: pure. A return has the order's key, a new `ce_id`, and names the event it answers; its
`traceparent` is that of the span that sends it, or the event's own where nothing is recorded.

A return that is sent again after a crash is decided anew, and so has a new id: the same id with
another `returned_at` would be a lie. A `duplicate` is the same record twice, id and all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import orjson

from relay.sample.processor.decision import Answer, Event, opposite
from relay.sample.processor.faults import Fault
from relay.sample.processor.options import Corruption

Headers = list[tuple[str, bytes]]

EVENT_TYPE: Final = b"order.returned"
_SCHEMA: Final = b"urn:outbox-relay:schema:order.returned"
_BREAKS: Final[tuple[Corruption, ...]] = ("truncated", "not_json", "no_status", "unknown_status")


@dataclass(frozen=True, slots=True)
class Return:
    """One record for the returns topic, and the span that sends it (None: not recorded)."""

    key: bytes
    value: bytes
    headers: Headers
    identity: bytes | None = None


@dataclass(slots=True)
class Maker:
    """Makes the returns of one batch of events, all decided at the same moment.

    Args:
        source: their `ce_source`.
        returned_at: RFC 3339, UTC.
    """

    source: bytes
    returned_at: str
    _common: Headers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._common = [
            ("ce_specversion", b"1.0"),
            ("ce_source", self.source),
            ("ce_type", EVENT_TYPE),
            ("ce_time", self.returned_at.encode()),
            ("ce_dataschema", _SCHEMA),
            ("content-type", b"application/json"),
        ]

    def make(
        self, event: Event, answer: Answer, traceparent: bytes | None, identity: bytes | None
    ) -> Return:
        """Make the return that gives `answer` to `event`."""
        value = {"order_id": event.order_id, "status": answer.status}
        if answer.reason is not None:
            value["reason"] = answer.reason
        value["returned_at"] = self.returned_at
        headers = self._headers(event)
        if traceparent is not None:
            headers.append(("traceparent", traceparent))
            if event.tracestate:
                headers.append(("tracestate", event.tracestate))
        return Return(event.key, orjson.dumps(value), headers, identity)

    def _headers(self, event: Event) -> Headers:
        headers = [*self._common, ("ce_id", new_id()), ("ce_subject", event.key)]
        if event.event_id is not None:
            headers.append(("ce_causationid", event.event_id.encode()))
        return headers


def new_id() -> bytes:
    """Make a UUID of version 4 as text; `uuid.uuid4` takes five times as long."""
    text = os.urandom(16).hex()
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}".encode(
        "ascii"
    )


def answers_with(faults: Sequence[Fault], answers: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """Change what is answered: nothing for a lost one, the opposite too, or the wrong way round."""
    if Fault.SKIP in faults or Fault.LOSE in faults:
        return ()
    if Fault.REORDER in faults:
        return (answers[-1], Answer("processing"))
    if Fault.CONFLICT in faults:
        return (*answers, opposite(answers[-1]))
    return answers


def returns_with(
    faults: Sequence[Fault], returns: Sequence[Return], corruption: Corruption
) -> list[Return]:
    """Change the records themselves: broken ones, and each one twice."""
    made = list(returns)
    if Fault.CORRUPT in faults:
        made = [corrupted(one, corruption) for one in made]
    if Fault.DUPLICATE in faults:
        made = [one for one in made for _ in range(2)]
    return made


def corrupted(one: Return, corruption: Corruption) -> Return:
    """Break a return so that no consumer can apply it; `any` chooses by its key."""
    how = _BREAKS[sum(one.key) % len(_BREAKS)] if corruption == "any" else corruption
    match how:
        case "truncated":
            return replace(one, value=one.value[: len(one.value) // 2])
        case "no_status":
            return replace(
                one, value=orjson.dumps({"order_id": one.key.decode("utf-8", "replace")})
            )
        case "unknown_status":
            return replace(one, value=one.value.replace(b'"status":"', b'"status":"un'))
        case _:
            return replace(one, value=b"\xff\xfe\x00 not JSON")
