"""Hop 1 of the sample under load: N orders at a rate, then a wait for their returns.

Invariant: every order has an idempotency key of its own, and a failed submission is repeated under
the same key, so that a lost answer makes no second order. At a given rate an order's time counts
from the moment it was due, so that a service that stalls cannot hide it by slowing the load down.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg

from relay.outbox import Item, NewOrder
from relay.runtime.backoff import Backoff
from relay.runtime.database import is_connection_loss
from relay.runtime.shutdown import stopped_within
from relay.sample.place import OrderRefusedError, Placement, Placing
from relay.sample.place_http import ServiceUnreachableError

_ITEMS: Final = (
    Item("tea-green-100", 2, "9.95"),
    Item("cup-white", 1, "4.00"),
    Item("kettle-steel", 1, "39.90"),
)
_UNAVAILABLE: Final = 503
_CUSTOMERS: Final = 1000

_RETURNED: Final = """
    SELECT order_id::text FROM public.orders
    WHERE order_id = ANY ($1::uuid[]) AND status IN ('confirmed', 'rejected')
"""
# As many pending orders are looked at in one statement.
_LOOKED_AT: Final = 20_000
_LOOK_SECONDS: Final = 0.25
_BACKOFF: Final = Backoff(first_seconds=0.1, cap_seconds=5.0)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What load to make.

    Args:
        orders: how many.
        rate: orders a second; None: each connection submits as fast as it is answered.
        connections: how many at once.
        attempts: how often one order is submitted before it counts as failed.
        run: names the run in customers and keys; two runs of one name would be one.
    """

    orders: int
    rate: float | None = None
    connections: int = 8
    attempts: int = 5
    run: str = "load"

    def order(self, number: int) -> NewOrder:
        """Return the run's order of that number, always the same."""
        return NewOrder(
            customer_id=f"load-{self.run}-{number % _CUSTOMERS}",
            items=_ITEMS[: 1 + number % len(_ITEMS)],
            currency="EUR",
            idempotency_key=f"load-{self.run}-{number}",
        )

    def due_seconds(self, number: int) -> float:
        """Return when the order is due, in seconds after the start."""
        return 0.0 if self.rate is None else number / self.rate


@dataclass(slots=True)
class Load:
    """What became of a load so far. Seconds are of the process's monotonic clock."""

    plan: LoadPlan
    order_ids: list[str] = field(default_factory=list)
    place_seconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    seconds: float = 0.0


async def make_load(
    plan: LoadPlan,
    placings: Callable[[], AbstractAsyncContextManager[Placing]],
    load: Load,
    stop: asyncio.Event,
) -> None:
    """Place the plan's orders, or those that are begun before `stop` is set.

    Args:
        plan: what to place.
        placings: opens one way to place orders, for each connection.
        load: is kept up to date, for whoever shows progress.
        stop: ends the load early.
    """
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(placings()) for _ in range(plan.connections)]
        numbers = iter(range(plan.orders))
        started = loop.time()
        async with asyncio.TaskGroup() as group:
            for way in ways:
                group.create_task(_place_each(way, numbers, load, started, stop))
        load.seconds = loop.time() - started


async def _place_each(
    way: Placing, numbers: Iterator[int], load: Load, started: float, stop: asyncio.Event
) -> None:
    loop = asyncio.get_running_loop()
    for number in numbers:
        due = started + load.plan.due_seconds(number)
        if await _stopped_before(due, stop):
            return
        begun = loop.time() if load.plan.rate is None else due
        try:
            placed = await _place_with_patience(way, load.plan, number)
        except _Failed as error:
            load.failed[error.code] += 1
            continue
        load.place_seconds.append(loop.time() - begun)
        load.order_ids.append(placed.order_id)
        load.repeated += not placed.created


async def _stopped_before(due: float, stop: asyncio.Event) -> bool:
    """Wait until `due` by the loop's clock; tell whether the load is to end instead."""
    wait_seconds = due - asyncio.get_running_loop().time()
    if wait_seconds > 0:
        return await stopped_within(stop, wait_seconds)
    return stop.is_set()


class _Failed(Exception):  # noqa: N818 - a result that is counted, not an error that is shown
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


async def _place_with_patience(way: Placing, plan: LoadPlan, number: int) -> Placement:
    """Place one order; what may pass is tried again under the same key."""
    order = plan.order(number)
    for attempt in itertools.count():
        try:
            return await way.place(order)
        except Exception as error:
            code = _code(error)
            if code is None:
                raise
            if attempt + 1 >= plan.attempts or not _may_pass(error):
                raise _Failed(code) from error
            await asyncio.sleep(_BACKOFF.delay_seconds(attempt))
    raise AssertionError("unreachable")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, OrderRefusedError):
        return error.status == _UNAVAILABLE
    return isinstance(error, ServiceUnreachableError) or is_connection_loss(error)


def _code(error: Exception) -> str | None:
    """Return what a failed order is counted as; None: not a matter of that order."""
    if isinstance(error, OrderRefusedError):
        return error.code
    if isinstance(error, ServiceUnreachableError):
        return "service_unreachable"
    return "database_unreachable" if is_connection_loss(error) else None


async def wait_for_returns(
    connection: asyncpg.Connection,
    order_ids: Sequence[str],
    timeout_seconds: float,
    progress: Callable[[int], None],
    stop: asyncio.Event,
) -> list[str]:
    """Wait until every order's return was applied; return the orders still without one.

    Args:
        connection: to the orders' database.
        order_ids: of the load.
        timeout_seconds: how long to wait.
        progress: called with the number of returned orders after each look.
        stop: ends the wait early.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    pending = dict.fromkeys(order_ids)
    while pending:
        looked_at = list(itertools.islice(pending, _LOOKED_AT))
        returned = await connection.fetch(_RETURNED, [UUID(one) for one in looked_at])
        for row in returned:
            del pending[row[0]]
        progress(len(order_ids) - len(pending))
        if len(returned) == len(looked_at):
            continue
        if loop.time() >= deadline or await _stopped_before(loop.time() + _LOOK_SECONDS, stop):
            break
    return list(pending)
