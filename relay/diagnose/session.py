"""Diagnoses orders: connects, gathers, decides, explains; the entry of the package.

Invariant: a database or a broker that cannot be reached is evidence that is missing, not an error;
only what is asked for wrongly is one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

import asyncpg

from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.gather.cut_over import orders_without_any_event
from relay.diagnose.gather.lookup import canonical
from relay.diagnose.gather.orders import Gatherer, GatherOptions
from relay.diagnose.gather.other_ids import OtherIds, find_other_ids
from relay.diagnose.gather.reading import database_missing
from relay.diagnose.report.diagnosis import Diagnosis
from relay.diagnose.report.explain import (
    asked_as,
    diagnose,
    needs_statement,
    with_statement,
)
from relay.diagnose.statements import statements_of
from relay.diagnose.watch.overdue import Open, find_open
from relay.orders.catalog import as_far_as_known
from relay.runtime.database import DATABASE_FAILURES, connect
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.kept_connections import KeptConnections

APPLICATION = "relay-diagnose"
STATEMENT_SECONDS = 30.0
# One gathering holds the evidence of so many orders in memory.
PAGE_ORDERS = 10_000


@dataclass(slots=True)
class Session:
    """A connection to the database (or why there is none), and how to reach the broker."""

    connection: asyncpg.Connection | Missing
    kafka: KafkaConnection
    flow: Flow
    options: GatherOptions = field(default_factory=GatherOptions)

    async def diagnose(
        self,
        order_ids: Sequence[str],
        events: Mapping[str, str] | None = None,
        twin: str | None = None,
        *,
        by_any_id: bool = False,
    ) -> list[Diagnosis]:
        """Diagnose these orders, each once, in their order.

        Args:
            order_ids: as people write them.
            events: order id -> event id, where a certain event is asked about.
            twin: the order that these orders' submission is known as.
            by_any_id: an id that is no order's is looked for everywhere else; of one that leads to
                several orders, each is diagnosed.
        """
        others = await self._other_ids(order_ids) if by_any_id else OtherIds()
        ids = self._ids(others.orders(order_ids))
        events = {**others.events(), **(events or {})}
        asked = {key: one for name, one in events.items() for key in self._ids([name])}
        gatherer = Gatherer(self.connection, self.kafka, self.flow, self.options)
        found: list[Diagnosis] = []
        for start in range(0, len(ids), PAGE_ORDERS):
            page = await gatherer.gather(ids[start : start + PAGE_ORDERS], asked)
            page = [others.beside(replace(one, twin=twin) if twin else one) for one in page]
            found += [asked_as(diagnose(one), others.asked_as(one.order_id)) for one in page]
        return await self._with_statements(found)

    async def _other_ids(self, order_ids: Sequence[str]) -> OtherIds:
        if isinstance(self.connection, Missing):
            return OtherIds()
        try:
            return await find_other_ids(self.connection, self.flow, order_ids)
        except DATABASE_FAILURES as error:
            return OtherIds(missing=database_missing("other ids", error))

    def _ids(self, order_ids: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(canonical(self.flow, order_ids)))

    async def _with_statements(self, found: list[Diagnosis]) -> list[Diagnosis]:
        if isinstance(self.connection, Missing) or not any(map(needs_statement, found)):
            return found
        statements = await statements_of(self.connection, self.flow)
        return [with_statement(one, statements) for one in found]

    async def open_orders(
        self, since: datetime | None = None, at_most: int = 100_000
    ) -> list[Open]:
        """Return the orders past their deadline, oldest first.

        Raises:
            asyncpg.PostgresError, FlowTableError: they cannot be read.
        """
        con = self.connection
        if isinstance(con, Missing):
            raise UnreachableError(f"{con.detail} (hint: {con.how_to_get})")
        return await find_open(con, self.flow, since=since, at_most=at_most)

    async def unjudged(self) -> str | None:
        """Say that orders are placed and no event was ever written; None: that is not so.

        Raises:
            asyncpg.PostgresError, FlowTableError: they cannot be read.
        """
        assert not isinstance(self.connection, Missing)
        count = await orders_without_any_event(self.connection, self.flow)
        if not count:
            return None
        return (
            f"{count:,} orders were placed and no event was ever written: none of them is judged;"
            " does the order service write to relay.outbox?"
        )


class UnreachableError(Exception):
    """The database cannot be reached, and without it no orders can be found."""


def open_connection(
    dsn: str | None, statement_seconds: float = STATEMENT_SECONDS
) -> Awaitable[asyncpg.Connection]:
    """Open a connection as sessions need it; the caller closes it.

    Raises:
        DatabaseError: there is no such database, or it does not let us in.
    """
    return connect(
        dsn,
        APPLICATION,
        require_primary=False,
        command_timeout_seconds=statement_seconds,
        # Ids come as arrays: a generic plan would not know how many they are.
        server_settings={"plan_cache_mode": "force_custom_plan", "jit": "off"},
    )


@asynccontextmanager
async def _opened(dsn: str | None, statement_seconds: float) -> AsyncIterator[asyncpg.Connection]:
    connection = await open_connection(dsn, statement_seconds)
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def session(
    dsn: str | None,
    kafka: KafkaConnection,
    flow: Flow,
    options: GatherOptions | None = None,
    *,
    statement_seconds: float = STATEMENT_SECONDS,
    kept: KeptConnections | None = None,
) -> AsyncIterator[Session]:
    """Open a session; it never fails: what cannot be reached is Missing.

    Where sessions are opened again and again, `kept` lends the connection.
    """
    connection: asyncpg.Connection | Missing
    lent: asyncpg.Connection | None = None
    async with AsyncExitStack() as stack:
        lending = _opened(dsn, statement_seconds) if kept is None else kept.borrow()
        try:
            connection = lent = await stack.enter_async_context(lending)
            flow = await as_far_as_known(connection, flow)
        except DATABASE_FAILURES as error:
            if lent is not None:
                lent.terminate()  # it is not lent again
            connection = database_missing("the database", error)
        yield Session(connection, kafka, flow, options or GatherOptions())
