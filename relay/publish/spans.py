"""Hop 2: one `send` span for each sampled event of an acknowledged batch.

Invariant: nothing here fails or delays publishing; without exporting nothing is done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.publish.batch import Batch
from relay.publish.record import microseconds
from relay.telemetry import names
from relay.telemetry.names import SpanKind
from relay.telemetry.otlp import SpanEncoder
from relay.telemetry.tracing import Tracing

_2000_IN_MICROSECONDS: Final = 946_684_800_000_000


@dataclass(slots=True)
class SendSpans:
    """Encodes and offers the spans of acknowledged batches."""

    tracing: Tracing
    client_id: str
    _encoders: dict[str, SpanEncoder] = field(default_factory=dict, init=False)

    def acknowledged(
        self,
        batch: Batch,
        *,
        base_offset: int | None,
        identities: Sequence[bytes | None],
        keys: Sequence[bytes],
        created_at: Sequence[bytes],
        started_ns: int,
    ) -> None:
        """Write the batch's spans: from hand-over to acknowledgement.

        Args:
            batch: what was acknowledged.
            base_offset: of its first record; None: not known.
            identities: the page's, by place.
            keys: the page's, by place.
            created_at: the batch's, as in `Page`.
            started_ns: when it was handed over, Unix time.
        """
        if not self.tracing.identities.recording:
            return
        chosen = [identities[place] for place in batch.places]
        if not any(chosen):
            return
        started_us = started_ns // 1000 - _2000_IN_MICROSECONDS
        created = microseconds(created_at)
        offsets = None if base_offset is None else range(base_offset, base_offset + len(chosen))
        self.tracing.export(
            self._encoder(batch.topic).encode(
                identities=chosen,
                order_ids=[keys[place] for place in batch.places],
                started_ns=started_ns,
                ended_ns=time.time_ns(),
                partition=batch.partition,
                offsets=offsets,
                waited_seconds=[(started_us - at) / 1e6 for at in created],
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
