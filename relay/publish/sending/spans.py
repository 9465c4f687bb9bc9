"""Hop 2: one `send` span for each sampled event of an acknowledged batch.

Invariant: nothing here fails or delays publishing; without exporting nothing is done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from relay.publish.reading.page import Page
from relay.publish.reading.replays import Replayed
from relay.publish.sending.batch import Batch
from relay.publish.sending.record import microseconds
from relay.telemetry import names
from relay.telemetry.identities import TraceColumns
from relay.telemetry.names import SpanKind
from relay.telemetry.otlp import SpanEncoder
from relay.telemetry.protobuf import attribute, link
from relay.telemetry.tracing import Tracing

_2000_IN_MICROSECONDS: Final = 946_684_800_000_000


@dataclass(slots=True)
class SentPage:
    """What is remembered of a page until its acknowledgement: not its payloads.

    Attributes:
        keys: the page's `names`, which are short, and so are the others: a column each.
        started_ns: when it was handed over, Unix time.
        replay_id: of the replay that it is part of.
    """

    keys: Sequence[bytes]
    created_at: Sequence[bytes]
    identities: Sequence[bytes | None]
    started_ns: int
    replay_id: UUID | None = None

    @classmethod
    def of(cls, page: Page, trace: TraceColumns, replay: Replayed | None = None) -> SentPage:
        """Note a page that is handed over now."""
        replay_id = None if replay is None else replay.replay_id
        return cls(page.names, page.created_at, trace.identities, time.time_ns(), replay_id)


@dataclass(slots=True)
class SendSpans:
    """Encodes and offers the spans of acknowledged batches."""

    tracing: Tracing
    client_id: str
    _encoders: dict[str, SpanEncoder] = field(default_factory=dict, init=False)

    def acknowledged(self, sent: SentPage, batch: Batch, base_offset: int | None) -> None:
        """Write a batch's spans, from hand-over to now; `base_offset` None: not known."""
        if not self.tracing.identities.recording:
            return
        places = batch.places
        identities = [sent.identities[place] for place in places]
        if not any(identities):
            return
        started_us = sent.started_ns // 1000 - _2000_IN_MICROSECONDS
        created_at = microseconds([sent.created_at[place] for place in places])
        count = len(places)
        offsets = None if base_offset is None else range(base_offset, base_offset + count)
        self.tracing.export(
            self._encoder(batch.topic).encode(
                identities=identities,
                order_ids=[sent.keys[place] for place in places],
                started_ns=sent.started_ns,
                ended_ns=time.time_ns(),
                partition=batch.partition,
                offsets=offsets,
                # What is sent again did not wait in the outbox: that its row is old says nothing.
                waited_seconds=[(started_us - at) / 1e6 for at in created_at]
                if sent.replay_id is None
                else None,
                fields=None if sent.replay_id is None else [_of_replay(sent.replay_id)] * count,
            )
        )

    def _encoder(self, topic: str) -> SpanEncoder:
        encoder = self._encoders.get(topic)
        if encoder is None:
            encoder = self._encoders[topic] = self.tracing.encoder(
                names.send_span(topic),
                SpanKind.CLIENT,
                names.send_attributes(topic, client_id=self.client_id),
            )
        return encoder


def _of_replay(replay_id: UUID) -> bytes:
    """Return what a span of a replayed event says besides: which replay, and where its trace is."""
    trace_id = replay_id.bytes
    return attribute(names.RELAY_REPLAY_ID, str(replay_id)) + link(trace_id, trace_id[8:])
