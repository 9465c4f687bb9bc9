"""Hop 2: the arithmetic of snapshot windows and their pages.

Invariant: pure. A window is the rows visible in `cur` and not in `prev`; every committed row is in
exactly one window of a sequence whose `cur` is the next one's `prev`. A window is paged by
ascending id and never by transaction: commit order is not transaction order, and an order's events
would change places.

Source: PgQ (Skytools); PostgreSQL manual, "Transaction ID and Snapshot Information Functions".
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Final

LOWEST_ID: Final = -(2**63)
_FIRST_SPAN: Final = 32_768
_LARGEST_SPAN: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A pg_snapshot: `xmin:xmax:xip,xip,...`, the last ascending, all of them full (64-bit)."""

    xmin: int
    xmax: int
    xip: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read PostgreSQL's text form.

        Raises:
            ValueError: it is not one.
        """
        xmin, xmax, xip = text.split(":")
        return cls(int(xmin), int(xmax), tuple(map(int, xip.split(","))) if xip else ())

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.xip))}"

    def sees(self, txid: int) -> bool:
        """Tell whether what that transaction did is visible, if it committed."""
        if txid < self.xmin:
            return True
        if txid >= self.xmax:
            return False
        place = bisect_left(self.xip, txid)
        return place == len(self.xip) or self.xip[place] != txid


@dataclass(frozen=True, slots=True)
class Position:
    """How far the outbox was read: what a checkpoint stores.

    Everything visible in `prev` is done. With `cur`, its window is being paged, and is done up to
    `last_id`.
    """

    prev: Snapshot
    cur: Snapshot | None = None
    last_id: int | None = None

    @property
    def newest(self) -> Snapshot:
        """The latest snapshot that was read in."""
        return self.cur or self.prev


def ended_between(prev: Snapshot, cur: Snapshot) -> tuple[int, ...]:
    """Return the transactions that were in progress in `prev` and are over in `cur`."""
    return tuple(txid for txid in prev.xip if cur.sees(txid))


@dataclass(frozen=True, slots=True)
class Paging:
    """A window that is larger than a page, half read.

    Attributes:
        ended: transactions in progress in `prev` that are over in `cur`; read on their own.
        floor: no row of the others has an id up to this one.
        ceiling: no row of the window has a higher id.
        last_id: done up to here.
        span: how many ids the next read may cross, so that one read among rows of others (or of a
            transaction that was rolled back) ends soon.
    """

    prev: Snapshot
    cur: Snapshot
    ended: tuple[int, ...]
    floor: int
    ceiling: int
    last_id: int
    span: int = _FIRST_SPAN

    @property
    def from_id(self) -> int:
        """Where the next read of the rows of new transactions begins (exclusive)."""
        return max(self.last_id, self.floor)

    @property
    def upto(self) -> int:
        """Where the next read ends (inclusive)."""
        if self.ended and self.last_id < self.floor:
            return min(self.floor, self.ceiling)
        return min(self.from_id + self.span, self.ceiling)

    def after(self, read_ids: int, last_read_id: int, limit: int) -> Paging | None:
        """Return the state after a read that found so many ids; None: the window is done.

        Fewer than `limit`: there are no more up to `upto`; as many: there may be.
        """
        if read_ids >= limit:
            return self.at(last_read_id)
        return self.at(self.upto, min(self.span * 2, _LARGEST_SPAN))

    def at(self, last_id: int, span: int = _FIRST_SPAN) -> Paging | None:
        """Return the state when everything up to `last_id` is done; None: the window is."""
        if last_id >= self.ceiling:
            return None
        return replace(self, last_id=last_id, span=span)

    @property
    def crosses_gap(self) -> bool:
        """Whether reads found so little for so long that the next row should be looked for."""
        return self.span == _LARGEST_SPAN

    @property
    def position(self) -> Position:
        """What a checkpoint stores at this point."""
        return Position(self.prev, self.cur, self.last_id)
