"""Hop 2: the wire form of records as Debezium's outbox event router sends them.

Invariant: pure; key, value, the header `id` and those that the settings name are what consumers of
the router know. Beside them stand `traceparent` and headers of ours, `relay_...`, by which a record
is told from another. A payload that is JSON's `null`, or empty, is a tombstone.

Source: Debezium 3.2, "Outbox Event Router": `transforms.outbox.*` with its default columns, and
`table.fields.additional.placement`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Final

from relay.kafka.event_headers import DEBEZIUM_CREATED_AT, DEBEZIUM_ID, DEBEZIUM_TYPE
from relay.publish.reading.page import ERASED, Page
from relay.publish.sending.record import (
    Rfc3339Times,
    header,
    own_headers,
    varint,
    varint_of,
)
from relay.runtime.flow import WireField
from relay.runtime.flows import Routes

_UUID_BYTES: Final = 36
_TIME_BYTES: Final = 27
_TRACEPARENT_BYTES: Final = 55
_NO_VALUE: Final = varint(-1)


def _start(name: str, size: int) -> bytes:
    return varint_of(len(name)) + name.encode() + varint_of(size)


_ID: Final = _start(DEBEZIUM_ID, _UUID_BYTES)
_TIME: Final = _start(DEBEZIUM_CREATED_AT, _TIME_BYTES)
_PARENT: Final = _start("traceparent", _TRACEPARENT_BYTES)
_VARYING: Final = 3


class DebeziumEncoder:
    """Encodes pages of flows whose `wire` is `debezium`.

    Args:
        routes: say which flow a row is of.
        epoch: the relay's tenure, which every record names.
    """

    def __init__(self, routes: Routes, epoch: int) -> None:
        self._routes = routes
        self._epoch = str(epoch).encode()
        self._times = Rfc3339Times()

    def tails(
        self,
        rows: Page,
        kinds: Sequence[str],
        traceparents: Sequence[bytes],
        tracestates: Sequence[bytes | None],
        replay_id: bytes | None = None,
    ) -> list[bytes]:
        """Encode each row's record from its key to its end."""
        pieces = (
            map(varint_of, map(len, rows.keys)),
            rows.keys,
            map(_value, rows.payloads, rows.content_types),
            [
                self._head(rows, kinds[place], place, tracestates[place], replay_id)
                for place in range(len(kinds))
            ],
            repeat(_ID),
            rows.id_texts(),
            repeat(_TIME),
            self._times.texts(rows.created_at),
            repeat(_PARENT),
            traceparents,
        )
        return list(map(b"".join, zip(*pieces, strict=False)))

    def _head(
        self,
        rows: Page,
        kind: str,
        place: int,
        tracestate: bytes | None,
        replay_id: bytes | None,
    ) -> bytes:
        """Return the number of headers, and those that are not every record's."""
        event_type = rows.event_types[place].encode("utf-8", "replace")
        fields: Mapping[WireField, bytes] = {
            "event_type": event_type,
            "aggregate_type": rows.aggregate_types[place].encode("utf-8", "replace"),
            "aggregate_id": rows.keys[place],
        }
        flow = self._routes.flow_of(kind)
        named = {} if flow is None else flow.wire_headers
        own = own_headers(rows.headers[place], frozenset({DEBEZIUM_ID, *named}))
        found = [*own, *((name.encode(), fields[field]) for name, field in named.items())]
        found += [(DEBEZIUM_TYPE.encode(), event_type), (b"relay_epoch", self._epoch)]
        content_type = rows.content_types[place]
        if content_type is not None:
            found.append((b"content-type", content_type.encode("utf-8", "replace")))
        if tracestate:
            found.append((b"tracestate", tracestate))
        if replay_id is not None:
            found.append((b"replay_id", replay_id))
        return varint_of(len(found) + _VARYING) + b"".join(header(*one) for one in found)


def _value(payload: bytes | None, content_type: str | None) -> bytes:
    if (
        not payload
        or content_type == ERASED
        or (content_type is None and payload.strip() == b"null")
    ):
        return _NO_VALUE
    return varint_of(len(payload)) + payload
