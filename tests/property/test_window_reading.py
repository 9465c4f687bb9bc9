"""Whatever writers do: each committed row once, none that was rolled back, each order in order.

Hypothesis drives several real connections (savepoints, two-phase commits, early transaction
numbers, rows for other days, transactions that stay open) and a reader with tiny pages that
restarts at its checkpoint now and then; the model is a list of what was committed.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from relay.publish.reading import cursor as cursor_module
from relay.publish.reading import window as window_module
from relay.publish.reading.cursor import OutboxCursor
from relay.publish.reading.outbox_sql import READER_SETTINGS
from relay.publish.reading.window import LOWEST_ID, Position, Snapshot

WRITERS = 4
ORDERS = 3
INSERT = (
    "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, created_at)"
    " VALUES ('order', %s, 'order.placed', '{}', now() - make_interval(days => %s)) RETURNING id"
)
WRITER = st.integers(0, WRITERS - 1)
ORDER = st.integers(0, ORDERS - 1)


@dataclass
class Transaction:
    """What an open transaction has done, as the model knows it."""

    rows: list[tuple[int, int]] = field(default_factory=list)  # order, id
    savepoints: list[int] = field(default_factory=list)
    orders: set[int] = field(default_factory=set)


class Writers:
    """Connections, and who holds which order: a writer locks the order before it inserts."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.connections = [psycopg.connect(dsn, autocommit=True) for _ in range(WRITERS)]

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


class Reading(RuleBasedStateMachine):
    """Writers and a reader on one outbox."""

    writers: Writers
    loop: asyncio.AbstractEventLoop
    reader: asyncpg.Connection

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[int, Transaction] = {}
        self.prepared: dict[str, Transaction] = {}
        self.names = 0
        self.committed: dict[int, list[int]] = {order: [] for order in range(ORDERS)}
        self.read: list[tuple[int, int]] = []

    @initialize(page_rows=st.integers(1, 5), hint=st.sampled_from(["none", "low", "high"]))
    def begin(self, page_rows: int, hint: str) -> None:
        admin = self.writers.connections[0]
        admin.execute("TRUNCATE relay.outbox")
        self.page_rows = page_rows
        now = admin.execute("SELECT pg_current_snapshot()::text").fetchone()
        last = admin.execute("SELECT last_value FROM relay.outbox_id_seq").fetchone()
        assert now is not None
        assert last is not None
        hints = {"none": LOWEST_ID, "low": last[0] - 3, "high": last[0] + 5}
        self.hint = hints[hint]
        self.position = Position(Snapshot.parse(now[0]))
        self.cursor = self._cursor()

    def _cursor(self) -> OutboxCursor:
        return OutboxCursor(
            self.reader,
            self.position,
            page_rows=self.page_rows,
            page_bytes=1_000_000,
            largest_bytes=1_000_000,
            hint_id=self.hint,
        )

    def _held(self) -> set[int]:
        waiting = [*self.open.values(), *self.prepared.values()]
        return set().union(*(one.orders for one in waiting)) if waiting else set()

    def _transaction(self, writer: int) -> Transaction:
        if writer not in self.open:
            self.writers.connections[writer].execute("BEGIN")
            self.open[writer] = Transaction()
        return self.open[writer]

    @rule(
        writer=WRITER, order=ORDER, days=st.sampled_from([0, 0, 0, 1, 400]), count=st.integers(1, 4)
    )
    def insert(self, writer: int, order: int, days: int, count: int) -> None:
        mine = self.open.get(writer)
        if order in self._held() and (mine is None or order not in mine.orders):
            return  # the writer would wait for the order's lock
        transaction = self._transaction(writer)
        transaction.orders.add(order)
        for _ in range(count):
            row = self.writers.connections[writer].execute(INSERT, (f"o-{order}", days)).fetchone()
            assert row is not None
            transaction.rows.append((order, row[0]))

    @rule(writer=WRITER)
    def take_a_number_early(self, writer: int) -> None:
        self._transaction(writer)
        self.writers.connections[writer].execute("SELECT pg_current_xact_id()")

    @rule(writer=WRITER)
    def savepoint(self, writer: int) -> None:
        if writer in self.open:
            transaction = self.open[writer]
            self.writers.connections[writer].execute(f"SAVEPOINT s{len(transaction.savepoints)}")
            transaction.savepoints.append(len(transaction.rows))

    @rule(writer=WRITER)
    def rollback_to_savepoint(self, writer: int) -> None:
        if writer in self.open and self.open[writer].savepoints:
            transaction = self.open[writer]
            kept = transaction.savepoints.pop()
            name = f"s{len(transaction.savepoints)}"
            self.writers.connections[writer].execute(f"ROLLBACK TO SAVEPOINT {name}")
            self.writers.connections[writer].execute(f"RELEASE SAVEPOINT {name}")
            del transaction.rows[kept:]

    @rule(writer=WRITER)
    def commit(self, writer: int) -> None:
        if writer in self.open:
            self.writers.connections[writer].execute("COMMIT")
            self._commit(self.open.pop(writer))

    @rule(writer=WRITER)
    def rollback(self, writer: int) -> None:
        if self.open.pop(writer, None) is not None:
            self.writers.connections[writer].execute("ROLLBACK")

    @rule(writer=WRITER)
    def prepare(self, writer: int) -> None:
        if writer in self.open and len(self.prepared) < 3:
            name = f"window-{id(self)}-{self.names}"
            self.names += 1
            self.writers.connections[writer].execute(f"PREPARE TRANSACTION '{name}'")
            self.prepared[name] = self.open.pop(writer)

    @precondition(lambda self: self.prepared)
    @rule(decision=st.sampled_from(["COMMIT", "ROLLBACK"]))
    def decide(self, decision: str) -> None:
        name, transaction = self.prepared.popitem()
        self.writers.connections[0].execute("SELECT 1")
        with psycopg.connect(self.writers.dsn, autocommit=True) as connection:
            connection.execute(f"{decision} PREPARED '{name}'")
        if decision == "COMMIT":
            self._commit(transaction)

    def _commit(self, transaction: Transaction) -> None:
        for order, row in transaction.rows:
            self.committed[order].append(row)

    @rule(pages=st.integers(1, 4))
    def read_pages(self, pages: int) -> None:
        for _ in range(pages):
            self._read_page()

    def _read_page(self) -> bool:
        page = self.loop.run_until_complete(self.cursor.next_page())
        assert len(page.ids) <= self.page_rows
        assert list(page.ids) == sorted(page.ids)
        self.read += [
            (int(key.removeprefix(b"o-")), row)
            for key, row in zip(page.keys, page.ids, strict=True)
        ]
        self.position = page.after
        return bool(page.ids) or self.cursor.in_window

    @rule(keep_hint=st.booleans())
    def restart(self, keep_hint: bool) -> None:
        if keep_hint and self.read:
            self.hint = max(row for _, row in self.read)
        self.cursor = self._cursor()

    @invariant()
    def nothing_wrong_was_read(self) -> None:
        assert len(set(self.read)) == len(self.read), "a row twice"
        for order, rows in self.committed.items():
            mine = [row for of, row in self.read if of == order]
            # A prefix: nothing uncommitted, nothing out of order, no hole before what was read.
            assert mine == rows[: len(mine)]

    def teardown(self) -> None:
        """Whatever stays open is decided; then all that was committed must have been read."""
        try:
            for writer in tuple(self.open):
                self.commit(writer)
            while self.prepared:
                self.decide("COMMIT")
            if hasattr(self, "cursor"):
                # A window may end with an empty page while the next one has rows.
                while self._read_page() or self._read_page():
                    pass
                self.nothing_wrong_was_read()
                assert len(self.read) == sum(map(len, self.committed.values()))
        finally:
            self._clean()

    def _clean(self) -> None:
        for writer in self.open:
            with contextlib.suppress(psycopg.Error):
                self.writers.connections[writer].execute("ROLLBACK")
        for name in self.prepared:
            with contextlib.suppress(psycopg.Error):
                self.writers.connections[0].execute(f"ROLLBACK PREPARED '{name}'")


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every loop go round more than once."""
    monkeypatch.setattr(window_module, "_FIRST_SPAN", 3)
    monkeypatch.setattr(window_module, "_LARGEST_SPAN", 6)
    monkeypatch.setattr(cursor_module, "_TXIDS_AT_A_TIME", 2)


@pytest.fixture
def machine(database: str) -> Iterator[Any]:
    loop = asyncio.new_event_loop()
    reader = loop.run_until_complete(asyncpg.connect(database, server_settings=READER_SETTINGS))
    writers = Writers(database)
    yield type("Machine", (Reading,), {"writers": writers, "loop": loop, "reader": reader})
    writers.close()
    loop.run_until_complete(reader.close())
    loop.close()


@pytest.mark.usefixtures("small_steps")
@pytest.mark.timeout(300)
def test_every_committed_row_once_and_each_order_in_order(machine: Any) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
