"""Hops 1 to 5 of a load: how long its orders took at each hop, from the proofs that each hop left.

Invariant: an order that did not pass a hop is not in that hop's numbers; nothing is guessed. Hops 3
and 4 are one number: the user's processor leaves no time between them that the database knows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

HOPS: Final = ("publish", "process, return", "confirm", "placed to returned")

# Each hop ends at its proof: the ledger's row (the broker acknowledged), the return's own timestamp
# on Kafka, the inbox row, the order's change. The ledger is unnested once: a look-up of each event
# by its index would cost 0.2 ms an order. Different clocks may differ: never less than nothing.
_TIMES: Final = """
    WITH event AS (
        SELECT id, aggregate_id, created_at FROM relay.outbox
        WHERE aggregate_id = ANY ($2::text[]) AND event_type = 'order.placed'
          AND created_at >= (SELECT min(submitted_at) FROM public.orders
                             WHERE order_id = ANY ($1::uuid[]))
    ), published AS (
        SELECT unnest(outbox_ids) AS id, published_at FROM relay.delivery_ledger
        WHERE replay_id IS NULL AND published_at >= (SELECT min(created_at) FROM event)
    ), applied AS (
        SELECT DISTINCT ON (aggregate_id) aggregate_id, recorded_at, received_at FROM relay.inbox
        WHERE aggregate_id = ANY ($2::text[]) AND new_status IN ('confirmed', 'rejected')
        ORDER BY aggregate_id, received_at
    )
    SELECT extract(epoch FROM p.published_at - e.created_at)::float8,
           extract(epoch FROM a.recorded_at - p.published_at)::float8,
           extract(epoch FROM a.received_at - a.recorded_at)::float8,
           extract(epoch FROM o.returned_at - o.submitted_at)::float8
    FROM public.orders o
    LEFT JOIN event e ON e.aggregate_id = o.order_id::text
    LEFT JOIN published p ON p.id = e.id
    LEFT JOIN applied a ON a.aggregate_id = o.order_id::text
    WHERE o.order_id = ANY ($1::uuid[])
"""

_STATUSES: Final = """
    SELECT status, count(*) FROM public.orders WHERE order_id = ANY ($1::uuid[])
    GROUP BY status ORDER BY status
"""


@dataclass(frozen=True, slots=True)
class Times:
    """How long one hop took, over `count` orders, in seconds."""

    count: int
    p50_seconds: float
    p99_seconds: float
    max_seconds: float


def times_of(seconds: Sequence[float]) -> Times | None:
    """Return the percentiles by nearest rank; None when there is nothing to measure."""
    if not seconds:
        return None
    ordered = sorted(seconds)

    def rank(share: float) -> float:
        return ordered[math.ceil(share * len(ordered)) - 1]

    return Times(len(ordered), rank(0.5), rank(0.99), ordered[-1])


async def hop_times(
    connection: asyncpg.Connection, order_ids: Sequence[str]
) -> Mapping[str, Times]:
    """Return each hop's times, for the orders that passed it.

    Raises:
        asyncpg.InsufficientPrivilegeError: the role may not read the proofs.
    """
    rows = await connection.fetch(_TIMES, [UUID(one) for one in order_ids], list(order_ids))
    found = {
        hop: times_of([max(0.0, row[at]) for row in rows if row[at] is not None])
        for at, hop in enumerate(HOPS)
    }
    return {hop: times for hop, times in found.items() if times is not None}


async def statuses(connection: asyncpg.Connection, order_ids: Sequence[str]) -> dict[str, int]:
    """Return how many of the orders have each status now."""
    rows = await connection.fetch(_STATUSES, [UUID(one) for one in order_ids])
    return {row[0]: row[1] for row in rows}


@dataclass(frozen=True, slots=True)
class Report:
    """What a load came to. `unreturned` is None when nobody waited for returns."""

    run: str
    placed: int
    repeated: int
    failed: Mapping[str, int]
    seconds: float
    statuses: Mapping[str, int]
    hops: Mapping[str, Times]
    unreturned: Sequence[str] | None

    @property
    def rate(self) -> float:
        """Orders placed a second."""
        return self.placed / self.seconds if self.seconds else 0.0

    def data(self) -> dict[str, Any]:
        """Return the report for `--json`."""
        return {
            "run": self.run,
            "placed": self.placed,
            "repeated": self.repeated,
            "failed": dict(self.failed),
            "seconds": self.seconds,
            "orders_per_second": self.rate,
            "statuses": dict(self.statuses),
            "hops": {hop: asdict(times) for hop, times in self.hops.items()},
            "unreturned": None if self.unreturned is None else list(self.unreturned),
        }

    def text(self) -> str:
        """Return the report for people."""
        took = f"{self.seconds:.2f} s ({self.rate:.0f}/s)"
        lines = [f"placed {self.placed} orders in {took}, run {self.run}"]
        lines += [f"failed {count} ({code})" for code, count in self.failed.items()]
        lines += [f"{status} {count}" for status, count in self.statuses.items()]
        lines.append(f"{'hop':<20}{'orders':>8}{'p50 ms':>12}{'p99 ms':>12}{'max ms':>12}")
        lines += [_line(hop, times) for hop, times in self.hops.items()]
        if self.unreturned:
            shown = ", ".join(self.unreturned[:_SHOWN])
            lines.append(f"not returned: {len(self.unreturned)}, first: {shown}")
        return "\n".join(lines)


_SHOWN: Final = 5


def _line(hop: str, times: Times) -> str:
    numbers = (times.p50_seconds, times.p99_seconds, times.max_seconds)
    return f"{hop:<20}{times.count:>8}" + "".join(f"{1000 * number:>12.1f}" for number in numbers)
