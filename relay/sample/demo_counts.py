"""Hops 1 to 5 of the demo: how many orders passed each hop, by the proof that each hop leaves.

Invariant: reads only. Counts are those since the first look, so that a database and a broker that
hold older orders can be used.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Final

import asyncpg

from relay.kafka.broker import LATEST, Broker
from relay.runtime.flow import Flow

# Each hop's own proof: the order, the ledger, the inbox. Hops 3 and 4 leave theirs on the broker.
_ROWS: Final = """
SELECT (SELECT count(*) FROM public.orders),
       (SELECT coalesce(sum(record_count), 0)::bigint FROM relay.delivery_ledger
         WHERE topic = $1 AND replay_id IS NULL),
       (SELECT count(*) FROM public.orders WHERE returned_at IS NOT NULL)
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many orders passed each hop so far."""

    place: int = 0
    publish: int = 0
    process: int = 0
    returns: int = 0
    confirm: int = 0

    def since(self, earlier: Counts) -> Counts:
        """Leave out what was there earlier."""
        return Counts(*(now - then for now, then in zip(astuple(self), astuple(earlier))))  # noqa: B905


@dataclass(slots=True)
class HopCounter:
    """Looks at all hops. `connection` is used by nobody else meanwhile."""

    connection: asyncpg.Connection
    broker: Broker
    flow: Flow
    _before: Counts = Counts()

    async def begin(self) -> None:
        """Count from here on."""
        self._before = await self._look()

    async def counts(self) -> Counts:
        """Return how many orders passed each hop since `begin`.

        Raises:
            KafkaError, asyncpg.PostgresError: a server does not answer.
        """
        return (await self._look()).since(self._before)

    async def _look(self) -> Counts:
        flow = self.flow
        row = await self.connection.fetchrow(_ROWS, flow.events_topic)
        committed = await self.broker.committed(flow.processor_groups[0])
        processed = sum(at for (topic, _), at in committed.items() if topic == flow.events_topic)
        await self.broker.refresh()
        parts = self.broker.partitions(flow.returns_topic)
        returned = sum((await self.broker.offsets(parts, LATEST)).values())
        return Counts(row[0], row[1], processed, returned, row[2])
