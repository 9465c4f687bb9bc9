"""Hop 2, when somebody else publishes: moves the checkpoint over what the ledger proves.

Invariant: the position never lies: a transaction is visible in its snapshot only if each of its
outbox rows stands in the ledger. The others' numbers stand in the snapshot's xip list, as if they
were in progress, so that all that reads the checkpoint (diagnosis, status, replay, a relay that
takes over) takes their rows for what they are: not handed over. Nothing is written here.

A look reads the rows that are new since the last position, a page of transactions at a time, and
those of the transactions that it left out, each by its number: its cost depends neither on how many
rows are retained nor on how long somebody's transaction stays open.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from relay.publish.reading.window import LOWEST_ID, Position, Snapshot

PAGE_ROWS: Final = 50_000
MOST_UNPROVEN: Final = 1_000
"""Transactions that a position leaves out; beyond them it waits: each is asked for at each look."""

_LOOK_SECONDS: Final = 1.0
# Without a row the position follows so far behind: nothing depends on it.
_IDLE_TXIDS: Final = 1_000

# Whether anything can have changed: a transaction ended, or the ledger has another row.
_CHANGED: Final = """
SELECT pg_current_snapshot()::text || ' '
       || coalesce((SELECT max(ledger_id) FROM relay.delivery_ledger), 0)
"""

# One statement, one snapshot. `fresh`: rows of transactions that were not looked at yet, in the
# order of the index; `proven`: what the ledger knows of their ids, each batch unnested once;
# `left_out`: rows of transactions that were in progress, or had a row without proof, and are over.
_LOOK: Final = """
WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS cur),
fresh AS MATERIALIZED (
    SELECT o.id, o.txid FROM relay.outbox AS o
     WHERE o.txid >= $1::xid8 AND pg_visible_in_snapshot(o.txid, (SELECT cur FROM now))
     ORDER BY o.txid, o.id LIMIT $2),
proven AS MATERIALIZED (
    SELECT u.id FROM relay.delivery_ledger AS l CROSS JOIN LATERAL unnest(l.outbox_ids) AS u (id)
     WHERE l.id_range && (SELECT int8range(min(id), max(id), '[]') FROM fresh)),
left_out AS MATERIALIZED (
    SELECT o.id, o.txid FROM relay.outbox AS o
     WHERE o.txid = ANY (ARRAY(SELECT was FROM unnest($3::xid8[]) AS was
                                WHERE pg_visible_in_snapshot(was, (SELECT cur FROM now))))),
unproven AS (
    SELECT txid FROM fresh WHERE NOT EXISTS (SELECT FROM proven WHERE proven.id = fresh.id)
    UNION
    SELECT o.txid FROM left_out AS o
     WHERE NOT EXISTS (SELECT FROM relay.delivery_ledger AS l
                        WHERE l.id_range @> o.id AND o.id = ANY (l.outbox_ids)))
SELECT (SELECT cur::text FROM now) AS cur, (SELECT count(*) FROM fresh) AS fresh,
       (SELECT max(txid::text::bigint) FROM fresh) AS last_txid,
       (SELECT max(id) FROM fresh) AS high_id,
       ARRAY(SELECT txid::text::bigint FROM unproven ORDER BY 1) AS unproven
"""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found.

    Attributes:
        cur: the snapshot that it read in.
        last_txid: of the rows that it read; None: all there are.
        unproven: transactions with a row that the ledger does not know, ascending.
    """

    cur: Snapshot
    last_txid: int | None
    unproven: tuple[int, ...]


def composed(prev: Snapshot, look: Look, most_unproven: int = MOST_UNPROVEN) -> Snapshot:
    """Return the snapshot in which a transaction is visible only if all of its rows have proof.

    Args:
        prev: the position so far: transactions below its xmax were looked at before.
        look: of the transactions from there on, and of those that `prev` left out.
        most_unproven: transactions that are left out; the position stays before any more.
    """
    cur = look.cur
    xmax = cur.xmax if look.last_txid is None else look.last_txid
    unproven = look.unproven
    if len(unproven) > most_unproven:
        xmax, unproven = min(xmax, unproven[most_unproven]), unproven[:most_unproven]
    xmax = max(xmax, prev.xmax)
    running = {txid for txid in cur.xip if txid < xmax}
    # What was left out and is not visible in `cur` is in progress still.
    running |= {txid for txid in prev.xip if not cur.sees(txid)}
    out = sorted(running | {txid for txid in unproven if txid < xmax})
    return Snapshot(out[0] if out else xmax, xmax, tuple(out))


@dataclass(slots=True)
class ProvenPosition:
    """Says, again and again, how far the ledger proves the outbox.

    Attributes:
        unproven: how many transactions the last look found without proof.
        high_id: the highest id that was looked at: a hint for a relay that takes over.
    """

    page_rows: int = PAGE_ROWS
    most_unproven: int = MOST_UNPROVEN
    unproven: int = 0
    high_id: int = LOWEST_ID
    _look_at: float = 0.0
    _seen: str | None = None
    _more: bool = field(default=False, init=False)

    async def next(self, connection: asyncpg.Connection, position: Position) -> Position | None:
        """Return the position that is proven now, if it is another; None: nothing to write.

        Asks at most once a second, unless there is more to read at once.

        Raises:
            asyncpg.PostgresError, OSError: the connection is lost or the statement failed.
        """
        now = time.monotonic()
        if not self._more and now < self._look_at:
            return None
        self._look_at = now + _LOOK_SECONDS
        changed = await connection.fetchval(_CHANGED)
        if not self._more and changed == self._seen:
            return None
        # A half-read window of a relay that published before: its rows are asked for again.
        prev = position.prev
        row = await connection.fetchrow(_LOOK, prev.xmax, self.page_rows, list(prev.xip))
        full = row["fresh"] >= self.page_rows
        look = Look(
            Snapshot.parse(row["cur"]), row["last_txid"] if full else None, tuple(row["unproven"])
        )
        proven = composed(prev, look, self.most_unproven)
        self.unproven, self._seen = len(look.unproven), changed
        self.high_id = max(self.high_id, LOWEST_ID if row["high_id"] is None else row["high_id"])
        self._more = full and proven.xmax > prev.xmax
        if full and row["last_txid"] <= prev.xmax:
            # One transaction fills the page: it is looked at whole.
            self.page_rows, self._more = 2 * self.page_rows, True
        else:
            self.page_rows = PAGE_ROWS
        moved = row["fresh"] or proven.xip != prev.xip or proven.xmax - prev.xmax >= _IDLE_TXIDS
        return Position(proven) if moved or position.cur is not None else None
