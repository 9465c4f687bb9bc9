"""Hop 2: one `send` span for each sampled event of an acknowledged batch.

Invariant: nothing here fails or delays publishing; without exporting nothing is done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from relay.publish.batch import Batch
from relay.publish.page import Page
from relay.publish.record import microseconds
from relay.publish.replays import Replayed
from relay.telemetry import names
from relay.telemetry.identities import TraceColumns
from relay.telemetry.names import SpanKind
from relay.telemetry.otlp import SpanEncoder
from relay.telemetry.protobuf import attribute, link
from relay.telemetry.tracing import Tracing

_2000_IN_MICROSECONDS: Final = 946_684_800_000_000


@dataclass(frozen=True, slots=True)
class SentBatch:
    """What is remembered of a batch until its acknowledgement: not its payloads.

    Attributes:
        created_at: as in `Page`.
        started_ns: when it was handed over, Unix time.
        replay_id: of the replay that it is part of.
    """

    topic: str
    partition: int
    keys: Sequence[bytes]
    created_at: Sequence[bytes]
    identities: Sequence[bytes | None]
    started_ns: int
    replay_id: UUID | None = None

    @classmethod
    def of(
        cls, page: Page, trace: TraceColumns, batch: Batch, replay: Replayed | None = None
    ) -> SentBatch:
        """Note a batch that is handed over now."""
        places = batch.places
        return cls(
            batch.topic,
            batch.partition,
            [page.keys[place] for place in places],
            [page.created_at[place] for place in places],
            [trace.identities[place] for place in places],
            time.time_ns(),
            None if replay is None else replay.replay_id,
        )


@dataclass(slots=True)
class SendSpans:
    """Encodes and offers the spans of acknowledged batches."""

    tracing: Tracing
    client_id: str
    _encoders: dict[str, SpanEncoder] = field(default_factory=dict, init=False)

    def acknowledged(self, sent: SentBatch, base_offset: int | None) -> None:
        """Write the batch's spans, from hand-over to now; `base_offset` None: not known."""
        if not self.tracing.identities.recording or not any(sent.identities):
            return
        started_us = sent.started_ns // 1000 - _2000_IN_MICROSECONDS
        count = len(sent.keys)
        offsets = None if base_offset is None else range(base_offset, base_offset + count)
        self.tracing.export(
            self._encoder(sent.topic).encode(
                identities=sent.identities,
                order_ids=sent.keys,
                started_ns=sent.started_ns,
                ended_ns=time.time_ns(),
                partition=sent.partition,
                offsets=offsets,
                waited_seconds=[(started_us - at) / 1e6 for at in microseconds(sent.created_at)],
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
