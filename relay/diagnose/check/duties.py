"""Are the duties done that nobody sees: the watchdog's rounds, positions, upkeep?

Invariant: pure but for one read. A duty that fails is a failed check; one that nobody has begun is
a warning: a check before the first start is no accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

import asyncpg

from relay.diagnose.check.result import Result, failed, ok, unknown, warning
from relay.runtime.database import DRIVER_FAILURES
from relay.runtime.duty_record import UPKEEP, WATCH_POSITIONS, WATCH_ROUND, DutySeen, read_duties

_DUTIES: Final = MappingProxyType(
    {
        WATCH_ROUND: "watch.rounds",
        WATCH_POSITIONS: "watch.positions",
        UPKEEP: "relay.upkeep",
    }
)
_START: Final = MappingProxyType(
    {
        WATCH_ROUND: "start relay run, relay confirm or relay watchdog",
        WATCH_POSITIONS: "start relay run, relay confirm or relay watchdog",
        UPKEEP: "start relay run (relay witness, where somebody else publishes)",
    }
)
_NOW: Final = "SELECT clock_timestamp()"


async def check_duties(connection: asyncpg.Connection) -> list[Result]:
    """Read the records of all duties, and judge them."""
    try:
        duties = await read_duties(connection)
        now_at = await connection.fetchval(_NOW)
    except DRIVER_FAILURES as error:
        fix = "run `relay check` as a member of relay_observer"
        return [unknown(name, str(error), fix) for name in _DUTIES.values()]
    return judge_duties(duties, now_at)


def judge_duties(duties: Mapping[str, DutySeen], now_at: datetime) -> list[Result]:
    """Say of each duty whether it is done."""
    return [_judge(duty, duties.get(duty), now_at) for duty in _DUTIES]


def _judge(duty: str, seen: DutySeen | None, now_at: datetime) -> Result:
    name = _DUTIES[duty]
    if seen is None:
        return warning(name, "never completed yet", _START[duty])
    last = "never" if seen.completed_at is None else f"{seen.completed_at:%Y-%m-%d %H:%M:%S %Z}"
    if seen.failures:
        said = f"failed {seen.failures} times since {last} on {seen.instance}: {seen.error}"
        return failed(name, said, "fix what the error says; the process's log has all of it")
    if not seen.done(now_at):
        return warning(name, f"last completed {last}, and overdue since", _START[duty])
    if seen.set_aside:
        said = f"{seen.set_aside} orders could not be judged"
        return warning(name, said, "the watchdog's log names each: event order_set_aside")
    return ok(name, "done in time")
