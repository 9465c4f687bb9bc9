"""A PostgreSQL of the imagination: transactions, snapshots and the few statements that matter.

The program's own classes run on it (cursor, checkpoint, lease, offset store): it answers the very
SQL constants they send, and fails on any other. A statement is atomic; a transaction's reply may be
lost, or the client may die before COMMIT.
"""

import copy
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from relay.kafka.consumer import offset_store
from relay.publish.ownership import lease
from relay.publish.reading import checkpoint, outbox_sql
from relay.publish.reading.window import Snapshot
from relay.runtime import duty_lease

ResultT = TypeVar("ResultT")


class ConnectionLostError(Exception):
    """The connection broke: what the last statement came to is unknown to the client."""


def finished(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        result: ResultT = end.value
        return result
    raise AssertionError("it waited for something that is not simulated")


@dataclass(frozen=True)
class Row:
    """A row of the outbox; `version` counts the order's events."""

    id: int
    txid: int
    order: int
    version: int

    @property
    def event_id(self) -> bytes:
        return self.id.to_bytes(16, "big")

    def fetched(self) -> tuple[Any, ...]:
        key, empty = str(self.order).encode(), bytes(8)
        return (self.id, self.event_id, key, "e", b"{}", 2, None, None, None, empty, "order", None)


@dataclass
class Database:
    """Everything that survives a crash of its clients."""

    now: float = 0.0
    next_txid: int = 100
    next_id: int = 1
    running: set[int] = field(default_factory=set)
    aborted: set[int] = field(default_factory=set)
    rows: list[Row] = field(default_factory=list)
    lease: dict[str, Any] = field(default_factory=lambda: {"owner": None, "epoch": 0, "until": 0.0})
    checkpoint: dict[str, Any] = field(
        default_factory=lambda: {
            "prev": "3:3:", "cur": None, "last_id": None, "seq": 0, "epoch": 0, "high_id": 0,
        }
    )  # fmt: skip
    ledger: list[tuple[int, int, int | None, list[int]]] = field(default_factory=list)
    offsets: dict[int, dict[str, Any]] = field(default_factory=dict)
    inbox: dict[str, bytes] = field(default_factory=dict)
    orders: dict[int, str] = field(default_factory=dict)
    history: list[tuple[int, str, str]] = field(default_factory=list)

    def begin(self) -> int:
        txid, self.next_txid = self.next_txid, self.next_txid + 1
        self.running.add(txid)
        return txid

    def end(self, txid: int, *, commit: bool) -> None:
        self.running.remove(txid)
        if not commit:
            self.aborted.add(txid)

    def insert(self, txid: int, order: int, version: int) -> None:
        self.rows.append(Row(self.next_id, txid, order, version))
        self.next_id += 1

    def snapshot(self) -> Snapshot:
        xip = tuple(sorted(self.running))
        return Snapshot(xip[0] if xip else self.next_txid, self.next_txid, xip)

    def visible(self, row: Row, snapshot: Snapshot) -> bool:
        return snapshot.sees(row.txid) and row.txid not in self.aborted

    def committed(self) -> list[Row]:
        return [row for row in self.rows if self.visible(row, self.snapshot())]


@dataclass
class Transaction:
    """Rolls back what consumers write, unless it ends well."""

    connection: "Connection"
    _before: dict[str, Any] = field(default_factory=dict)

    async def __aenter__(self) -> None:
        database = self.connection.database
        names = ("offsets", "inbox", "orders", "history", "lease", "checkpoint")
        self._before = {name: copy.deepcopy(getattr(database, name)) for name in names}

    async def __aexit__(self, kind: object, *_: object) -> None:
        fate, self.connection.fate = self.connection.fate, "well"
        if kind is not None or fate == "dies before commit":
            for name, value in self._before.items():
                setattr(self.connection.database, name, value)
        if kind is None and fate != "well":
            raise ConnectionLostError(fate)


@dataclass
class Statement:
    """A prepared statement."""

    connection: "Connection"
    sql: str

    async def fetch(self, *arguments: Any) -> Any:
        return self.connection.answer(self.sql, arguments)

    async def fetchval(self, *arguments: Any) -> Any:
        return self.connection.answer(self.sql, arguments)


@dataclass
class Connection:
    """One client's connection.

    Attributes:
        fate: of the next commit: `well`, `dies before commit`, `reply lost`.
    """

    database: Database
    fate: str = "well"

    def transaction(self) -> Transaction:
        return Transaction(self)

    async def prepare(self, sql: str) -> Statement:
        return Statement(self, sql)

    async def fetch(self, sql: str, *arguments: Any) -> Any:
        return self.answer(sql, arguments)

    fetchval = fetchrow = execute = fetch

    def answer(self, sql: str, arguments: Sequence[Any]) -> Any:
        return _ANSWERS[sql](self.database, self, *arguments)


# --- hop 2: the cursor


def _window(db: Database, _c: Connection, xmax: int, limit: int, _i: int, xip: Any = ()) -> Any:
    cur = db.snapshot()
    new = [row for row in db.rows if row.txid >= xmax and db.visible(row, cur)]
    ended = [row for row in db.rows if row.txid in xip and db.visible(row, cur)]
    new.sort(key=lambda row: (row.txid, row.id))
    head = (None, None, None, None, None, None, None, str(cur), None, None, None, None)
    return [head, *(row.fetched() for row in [*new[:limit], *ended[:limit]])]


def _snapshot(db: Database, _c: Connection) -> Any:
    return [(str(db.snapshot()),)]


def _page_of_new(
    db: Database, _c: Connection, start: int, upto: int, xmax: int, cur: str, limit: int, _i: int
) -> Any:
    snapshot = Snapshot.parse(cur)
    found = [row for row in db.rows if start < row.id <= upto and row.txid >= xmax]
    return [row.fetched() for row in found if db.visible(row, snapshot)][:limit]


def _page_of_ended(
    db: Database, _c: Connection, last_id: int, upto: int, ended: Any, limit: int, _i: int
) -> Any:
    found = [row for row in db.rows if last_id < row.id <= upto and row.txid in ended]
    return [row.fetched() for row in found if row.txid not in db.aborted][:limit]


def _there(db: Database) -> list[Row]:
    """What a statement sees now."""
    return db.committed()


def _last_before(db: Database, _c: Connection, xmax: int) -> int | None:
    return max((row.id for row in _there(db) if row.txid < xmax), default=None)


def _lowest_of_new(db: Database, _c: Connection, first: int, beyond: int, hint: int) -> int | None:
    found = (row.id for row in _there(db) if first <= row.txid < beyond and row.id <= hint)
    return min(found, default=None)


def _lowest_of_ended(db: Database, _c: Connection, ended: Any) -> int | None:
    return min((row.id for row in _there(db) if row.txid in ended), default=None)


def _bounds(db: Database, _c: Connection) -> tuple[int | None, int | None]:
    ids = [row.id for row in _there(db)]
    return min(ids, default=None), max(ids, default=None)


def _next_id(db: Database, _c: Connection, after: int) -> int | None:
    return min((row.id for row in _there(db) if row.id > after), default=None)


# --- hop 2: checkpoint and lease


def _advance(db: Database, connection: Connection, *given: Any) -> int:
    """`checkpoint.ADVANCE`: $1 shard, $2 epoch, $3 seq, $4 prev, $5 cur, $6 last_id, $7 high_id."""
    at = db.checkpoint
    fate, connection.fate = connection.fate, "well"
    if fate == "dies before commit":
        raise ConnectionLostError(fate)
    moved = (given[1], given[2]) == (at["epoch"], at["seq"])
    if moved:
        at |= {"prev": given[3], "cur": given[4], "last_id": given[5], "seq": at["seq"] + 1}
        at["high_id"] = max(at["high_id"], given[6])
        outbox_ids = _numbers(given[7])
        for partition, offset, first, last in zip(*map(_numbers, given[9:13]), strict=True):
            db.ledger.append((given[1], partition, offset, outbox_ids[first - 1 : last]))
    if fate == "reply lost":
        raise ConnectionLostError(fate)
    return int(moved)


def _numbers(array: str) -> list[Any]:
    """Read PostgreSQL's text of an array."""
    texts = array.strip("{}").split(",")
    return [None if one == "NULL" else int(one) for one in texts if one]


def _take(
    db: Database, _c: Connection, _duty: str, _shard: int, owner: str, seconds: float
) -> int | None:
    if db.lease["owner"] not in (None, owner) and db.lease["until"] >= db.now:
        return None
    epoch: int = db.lease["epoch"] + 1
    db.lease = {"owner": owner, "epoch": epoch, "until": db.now + seconds}
    return epoch


def _renew(
    db: Database, _c: Connection, _duty: str, _shard: int, epoch: int, seconds: float
) -> int | None:
    if db.lease["epoch"] != epoch or db.lease["owner"] is None:
        return None
    db.lease["until"] = db.now + seconds
    return 1


def _release(db: Database, _c: Connection, _duty: str, _shard: int, epoch: int) -> None:
    if db.lease["epoch"] == epoch:
        db.lease["owner"] = None


# --- hop 5: the stored offsets


def _read(db: Database, _c: Connection, _group: str, _topic: str, partitions: Any) -> Any:
    return [db.offsets[number] for number in partitions if number in db.offsets]


def _enter(
    db: Database, _c: Connection, _g: str, _t: str, partition: int, start: int, *_rest: Any
) -> None:
    new = {"partition": partition, "next_offset": start, "topic_id": None}
    db.offsets.setdefault(partition, new | {"last_record_offset": None, "last_record": None})


def _own(_db: Database, _c: Connection, *_given: Any) -> None:
    """Whose a partition is counts for people only."""


def _advance_offsets(db: Database, _c: Connection, _g: str, _t: str, *given: Any) -> str:
    partitions, expected, following, last, records, topic_id, _owner = given
    moves = zip(partitions, expected, following, last, records, strict=True)
    count = 0
    for partition, start, end, last_offset, record in moves:
        at = db.offsets.get(partition)
        if at is not None and at["next_offset"] == start:
            at |= {"next_offset": end, "last_record_offset": last_offset, "last_record": record}
            at["topic_id"] = topic_id
            count += 1
    return f"UPDATE {count}"


_ANSWERS: dict[str, Callable[..., Any]] = {
    outbox_sql.SNAPSHOT: _snapshot,
    outbox_sql.WINDOW: _window,
    outbox_sql.WINDOW_OF_NEW: _window,
    outbox_sql.PAGE_OF_NEW: _page_of_new,
    outbox_sql.PAGE_OF_ENDED: _page_of_ended,
    outbox_sql.LAST_BEFORE: _last_before,
    outbox_sql.LOWEST_OF_NEW: _lowest_of_new,
    outbox_sql.LOWEST_OF_ENDED: _lowest_of_ended,
    outbox_sql.BOUNDS: _bounds,
    outbox_sql.NEXT_ID: _next_id,
    checkpoint.ADVANCE: _advance,
    duty_lease.TAKE: _take,
    duty_lease.RENEW: _renew,
    duty_lease.RELEASE: _release,
    lease._LOCK_TIMEOUT: lambda *_: None,
    offset_store._READ: _read,
    offset_store._ENTER: _enter,
    offset_store._OWN: _own,
    offset_store._ADVANCE: _advance_offsets,
}
