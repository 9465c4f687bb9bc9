"""Hop 2: one `send` span for each sampled event of an acknowledged batch, and its `wait` before it.

Invariant: nothing here fails or delays publishing; without exporting nothing is done. A row that
waited longer than a setting has a span of that, from its commit to the hand-over; where the row has
no context of its own, that is the root of its trace, and the `send` span hangs below it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from relay.publish.reading.page import Page
from relay.publish.reading.replays import Replayed
from relay.publish.sending.batch import Batch
from relay.publish.sending.record import microseconds
from relay.telemetry import names
from relay.telemetry.event_parts import Said, event_parts, said_of
from relay.telemetry.identities import TraceColumns, below, is_root, siblings
from relay.telemetry.names import SpanKind
from relay.telemetry.otlp import SpanEncoder
from relay.telemetry.protobuf import attribute, link
from relay.telemetry.tracing import Tracing

_2000_IN_MICROSECONDS: Final = 946_684_800_000_000
# A row says itself when it was made: what claims to be older than this says nothing of a wait.
_LONGEST_WAIT_SECONDS: Final = 366 * 86_400.0

_Parts = Sequence[bytes | None]


@dataclass(slots=True)
class SentPage:
    """What is remembered of a page until its acknowledgement: not its payloads.

    Attributes:
        keys: the page's `names`, which are short, and so are the others: a column each.
        started_ns: when it was handed over, Unix time.
        replay_id: of the replay that it is part of.
        message_ids: the events' ids as text; None: not known.
        parts: what the spans of each row say, once the first batch was acknowledged.
    """

    keys: Sequence[bytes]
    created_at: Sequence[bytes]
    identities: Sequence[bytes | None]
    started_ns: int
    replay_id: UUID | None = None
    message_ids: Sequence[bytes] | None = None
    parts: tuple[_Parts, _Parts | None] | None = field(default=None, init=False)

    @classmethod
    def of(cls, page: Page, trace: TraceColumns, replay: Replayed | None = None) -> SentPage:
        """Note a page that is handed over now."""
        replay_id = None if replay is None else replay.replay_id
        return cls(
            page.names,
            page.created_at,
            trace.identities,
            time.time_ns(),
            replay_id,
            page.id_texts() if any(trace.identities) else None,
        )


@dataclass(slots=True)
class SendSpans:
    """Encodes and offers the spans of acknowledged batches."""

    tracing: Tracing
    client_id: str
    server: str | None = None
    wait_seconds: float = 1.0
    now_ns: Callable[[], int] = time.time_ns
    _encoders: dict[str, tuple[SpanEncoder, SpanEncoder]] = field(default_factory=dict, init=False)

    def acknowledged(self, sent: SentPage, batch: Batch, base_offset: int | None) -> None:
        """Write a batch's spans, from hand-over to now; `base_offset` None: not known."""
        if not self.tracing.identities.recording or not any(sent.identities):
            return
        ended_ns, count = self.now_ns(), len(batch.places)
        if sent.parts is None:
            sent.parts = self._parts(sent)
        sends, waits = sent.parts
        send, wait = self._encoders_to(batch.topic)
        if waits is not None:
            waited = [waits[place] for place in batch.places]
            self.tracing.export(wait.frame(waited, ended_ns=sent.started_ns))
        self.tracing.export(
            send.frame(
                [sends[place] for place in batch.places],
                started_ns=sent.started_ns,
                ended_ns=ended_ns,
                partition=batch.partition,
                offsets=None if base_offset is None else range(base_offset, base_offset + count),
                batch_size=count,
            )
        )

    def _parts(self, sent: SentPage) -> tuple[_Parts, _Parts | None]:
        """Encode what the `send` span of each row says for itself, and its `wait` if one is long.

        Once a page, and not for each of its batches.
        """
        identities, replay_id = sent.identities, sent.replay_id
        if replay_id is not None:
            # The root, or what hangs below it, was sent before. That the row is old says nothing.
            identities = [one and below(one) for one in identities]
            fields = [_of_replay(replay_id)] * len(identities)
            said = said_of(message_ids=sent.message_ids, fields=fields)
            return self._event_parts(sent, identities, said, linked=True), None
        waits: _Parts | None = None
        created_at = microseconds(sent.created_at)
        started_us = sent.started_ns // 1000 - _2000_IN_MICROSECONDS
        waited = [(started_us - at) / 1e6 for at in created_at]
        if max(waited) > self.wait_seconds:
            own, identities = self._waits(identities, waited)
            waits = self._event_parts(sent, own, said_of(starts_ns=_starts_ns(created_at, own)))
        said = said_of(waited_seconds=waited, message_ids=sent.message_ids)
        return self._event_parts(sent, identities, said, linked=True), waits

    def _event_parts(
        self,
        sent: SentPage,
        identities: _Parts,
        said: Said,
        *,
        linked: bool = False,
    ) -> _Parts:
        limit = self.tracing.value_limit
        return event_parts(identities, sent.keys, said, limit=limit, linked=linked)

    def _waits(self, identities: _Parts, waited: Sequence[float]) -> tuple[_Parts, _Parts]:
        """Return the identities of the waits, and of the sends beside or below them."""
        own = [one for one in identities if one is not None]
        plain = len(own) == len(identities) and not any(map(is_root, own))
        if plain and self.wait_seconds < min(waited) and max(waited) < _LONGEST_WAIT_SECONDS:
            return list(siblings(own)), identities
        waits: list[bytes | None] = [None] * len(identities)
        sends = list(identities)
        for place, (one, seconds) in enumerate(zip(identities, waited, strict=True)):
            if one is not None and self.wait_seconds < seconds < _LONGEST_WAIT_SECONDS:
                root = is_root(one)
                waits[place] = one if root else below(one)
                sends[place] = below(one) if root else one
        return waits, sends

    def _encoders_to(self, topic: str) -> tuple[SpanEncoder, SpanEncoder]:
        """Return the encoders of the `send` spans to a topic, and of the waits before them."""
        known = self._encoders.get(topic)
        if known is None:
            said = names.send_attributes(topic, client_id=self.client_id, server=self.server)
            known = self._encoders[topic] = (
                self.tracing.encoder(names.send_span(topic), SpanKind.CLIENT, said, linked=True),
                self.tracing.encoder(
                    names.wait_span(topic), SpanKind.INTERNAL, names.wait_attributes(topic)
                ),
            )
        return known


def _starts_ns(created_at: Sequence[int], waits: _Parts) -> list[int]:
    """Return when the waits began; 0 where there is none: its time may be any that a row holds."""
    rows = zip(created_at, waits, strict=True)
    return [(at + _2000_IN_MICROSECONDS) * 1000 if own else 0 for at, own in rows]


def _of_replay(replay_id: UUID) -> bytes:
    """Return what a span of a replayed event says besides: which replay, and where its trace is."""
    trace_id = replay_id.bytes
    return attribute(names.RELAY_REPLAY_ID, str(replay_id)) + link(trace_id, trace_id[8:])
