"""Hops 1 to 5 of a load, from the first order to the report: `relay sample load`.

Invariant: SIGTERM and SIGINT end it early and the report tells of what was done until then; nothing
it started keeps running.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import asyncpg

from relay.runtime.database import connect
from relay.runtime.shutdown import stop_on_signals
from relay.runtime.tasks import awaited
from relay.sample.installation import require_sample
from relay.sample.load import Load, LoadPlan, make_load, wait_for_returns
from relay.sample.load_report import Report, hop_times, statuses, times_of
from relay.sample.place import Placing

_TELL_SECONDS = 1.0


async def run_load(
    dsn: str | None,
    plan: LoadPlan,
    placings: Callable[[], AbstractAsyncContextManager[Placing]],
    *,
    wait_seconds: float,
    tell: Callable[[str], None],
) -> Report:
    """Place the plan's orders, wait for their returns, and report.

    Args:
        dsn: the orders' database, where returns and proofs are looked up.
        plan: what to place.
        placings: opens one way to place orders, for each connection.
        wait_seconds: for the returns after the last order; 0: not at all.
        tell: is given a line of progress each second.

    Raises:
        DatabaseError: the database cannot be reached.
        NotSampleError: it is not a sample installation.
    """
    connection = await connect(dsn, "relay sample load")
    try:
        await require_sample(connection)
        load = Load(plan)
        with stop_on_signals() as stop:
            async with _telling(lambda: f"placed {len(load.order_ids)} of {plan.orders}", tell):
                await make_load(plan, placings, load, stop)
            unreturned = await _unreturned(connection, load, wait_seconds, stop, tell)
        return await _report(connection, load, unreturned, tell)
    finally:
        await connection.close()


async def _unreturned(
    connection: asyncpg.Connection,
    load: Load,
    wait_seconds: float,
    stop: asyncio.Event,
    tell: Callable[[str], None],
) -> list[str] | None:
    if wait_seconds == 0:
        return None
    returned = 0

    def progress(count: int) -> None:
        nonlocal returned
        returned = count

    async with _telling(lambda: f"returned {returned} of {len(load.order_ids)}", tell):
        return await wait_for_returns(connection, load.order_ids, wait_seconds, progress, stop)


@asynccontextmanager
async def _telling(line: Callable[[], str], tell: Callable[[str], None]) -> AsyncIterator[None]:
    async def each_second() -> None:
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            tell(line())

    task = awaited(each_second(), "load report")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        tell(line())


async def _report(
    connection: asyncpg.Connection,
    load: Load,
    unreturned: list[str] | None,
    tell: Callable[[str], None],
) -> Report:
    placing = times_of(load.place_seconds)
    hops = {} if placing is None else {"place": placing}
    try:
        hops |= await hop_times(connection, load.order_ids)
    except asyncpg.InsufficientPrivilegeError as error:
        tell(f"no times of hops 2 to 5: {error} (a member of relay_operator may read them)")
    return Report(
        run=load.plan.run,
        placed=len(load.order_ids),
        repeated=load.repeated,
        failed=load.failed,
        seconds=load.seconds,
        statuses=await statuses(connection, load.order_ids),
        hops=hops,
        unreturned=unreturned,
    )
