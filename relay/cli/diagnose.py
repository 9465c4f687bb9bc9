"""Find: `relay diagnose`: where an order was lost, why, the evidence, and what to do next.

Invariant: it changes nothing; what cannot be reached is told as missing evidence. Exit code 3 when
an order is lost, delayed or cannot be judged.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from relay.cli.diagnosis_text import causes, many_orders, one_order
from relay.cli.errors import Found, NotLookedError
from relay.cli.output import echo, harmless, print_json, settings_of, wants_json
from relay.cli.parameters import SINCE
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.gather.logs import LogReading
from relay.diagnose.gather.lookup import order_of_submission, orders_of_events
from relay.diagnose.gather.orders import GatherOptions
from relay.diagnose.report.diagnosis import Diagnosis
from relay.diagnose.session import Session, UnreachableError, session
from relay.diagnose.verdicts import found_something
from relay.runtime.settings import Settings
from relay.runtime.trace_link import NOT_SAMPLED

TRIAGE_ORDERS = 10_000


@click.command("diagnose")
@click.argument("orders", nargs=-1)
@click.option(
    "--event", "events", multiple=True, metavar="ID", help="Diagnose the order of this event."
)
@click.option(
    "--customer",
    metavar="ID",
    help="With --key: the order of that submission, and the id that a lost order is known by.",
)
@click.option(
    "--key", metavar="KEY", help="With --customer: the idempotency key of the submission."
)
@click.option(
    "--since",
    type=SINCE,
    help="Diagnose orders placed since this time, or within this duration: 24h, 7d.",
)
@click.option(
    "--scan-seconds",
    type=click.FloatRange(min=0),
    help="Seconds to search the returns topic, including returns that were handled already.",
)
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Say where orders were lost: hop, verdict, cause, evidence, and the next command.

    Without ORDERS: all orders that are overdue, and one command to run next. `-` reads order ids
    from stdin, one a line.
    """
    customer, key, since = given["customer"], given["key"], given["since"]
    if (customer is None) != (key is None):
        raise click.UsageError("--customer and --key go together")
    settings = settings_of(ctx)
    options = GatherOptions(since, _reading(given["scan_seconds"]))
    submission = None if customer is None else (customer, key)
    asked = _Asked(_ids(given["orders"]), given["events"], submission, since)
    found, unjudged = asyncio.run(_diagnose(settings, options, asked))
    if found or unjudged is None or wants_json(ctx):
        _print(ctx, settings, found, everything=asked.nothing)
    if any(found_something(one.verdict) for one in found):
        raise Found("something is lost, delayed, or cannot be judged")
    if unjudged is not None:
        raise NotLookedError(unjudged)


def _reading(scan_seconds: float | None) -> LogReading:
    if scan_seconds is None:
        return LogReading()
    return LogReading(scan_seconds=scan_seconds, recheck_seconds=scan_seconds)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the command line asks about."""

    orders: Sequence[str]
    events: Sequence[str]
    submission: tuple[str, str] | None
    since: datetime | None

    @property
    def nothing(self) -> bool:
        """Nothing in particular: triage."""
        return not self.orders and not self.events and self.submission is None


def _ids(orders: Sequence[str]) -> list[str]:
    ids = [one for one in orders if one != "-"]
    if "-" in orders:
        ids += [line.strip() for line in sys.stdin if line.strip()]
        if not ids:
            raise click.UsageError("stdin holds no order id")
    return ids


async def _diagnose(
    settings: Settings, options: GatherOptions, asked: _Asked
) -> tuple[list[Diagnosis], str | None]:
    """Return the diagnoses, and why nothing could be judged where all were asked about."""
    dsn, kafka, flow = settings.database.dsn, settings.kafka, settings.flow
    async with session(dsn, kafka, flow, options) as opened:
        if asked.nothing:
            overdue = await opened.open_orders(asked.since, TRIAGE_ORDERS)
            found = await opened.diagnose([one.order_id for one in overdue])
            return found, await opened.unjudged()
        meant = await _looked_up(opened, asked)
        ids = [*meant.orders, *meant.events]
        whole = asked.submission is None
        found = await opened.diagnose(ids, meant.events, meant.twin, by_any_id=whole)
        return found, None


@dataclass(frozen=True, slots=True)
class _LookedUp:
    """The orders that were meant; the events of some; the order that the submission is known as."""

    orders: Sequence[str]
    events: Mapping[str, str]
    twin: str | None = None


async def _looked_up(opened: Session, asked: _Asked) -> _LookedUp:
    orders = list(asked.orders)
    if not asked.events and asked.submission is None:
        return _LookedUp(orders, {})
    con = opened.connection
    if isinstance(con, Missing):
        raise UnreachableError(f"{con.detail}: order ids can still be given")
    of_events = await orders_of_events(con, asked.events) if asked.events else {}
    if asked.submission is None:
        return _LookedUp(orders, of_events)
    customer, key = asked.submission
    known = await order_of_submission(con, opened.flow, customer, key)
    return _LookedUp([*orders, known or f"{customer}/{key}"], of_events, known)


def _print(
    ctx: click.Context, settings: Settings, found: Sequence[Diagnosis], *, everything: bool
) -> None:
    now_at = datetime.now(UTC)
    if wants_json(ctx):
        print_json({"orders": [one.as_json(settings.trace.url) for one in found]})
        return
    found = harmless(list(found))
    if everything:
        lines = causes(found, now_at) if found else ["no order is overdue: nothing is lost"]
    elif len(found) == 1:
        lines = one_order(found[0], now_at)
        link = found[0].trace_link(settings.trace.url)
        if link is None and found[0].trace_sampled is False:
            link = NOT_SAMPLED
        lines += [f" trace {link}"] if link else []
    else:
        lines = many_orders(found, now_at)
    echo(lines)
