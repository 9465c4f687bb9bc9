"""Whether anybody looks for overdue orders: what "none" is worth.

Invariant: "nothing is overdue" stands only beside a completed round that is not overdue itself;
everything else is "nobody has looked", with since when and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from relay.runtime.duty_record import WATCH_ROUND, DutySeen, read_duties

FIRST_ROUND_SECONDS: Final = 60.0
"""A service that was just started has so long for the watchdog's first round."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What is known of the watchdog's rounds.

    Attributes:
        at: when the last round was completed; None: none ever was.
        why_not: why nobody looks now; None: somebody does.
        set_aside: orders that the last round could not judge.
        failed: the last round failed; else, where nobody looks, none was begun in time.
    """

    at: datetime | None
    why_not: str | None
    set_aside: int = 0
    failed: bool = False

    def alarming(self, now_at: datetime, started_at: datetime | None) -> bool:
        """Tell whether it takes a person that nobody looks.

        It does not while the services have just been started: their first round is still to come.

        Args:
            now_at: the database's time.
            started_at: since when the service that runs longest runs; None: none does.
        """
        if self.why_not is None:
            return False
        if self.failed or started_at is None:
            return True
        return (now_at - started_at).total_seconds() > FIRST_ROUND_SECONDS

    def as_data(self) -> dict[str, Any]:
        """Return for --json what the absence of overdue orders is worth."""
        return {
            "looked_at": None if self.at is None else self.at.isoformat(),
            "looked": self.why_not is None,
            "why_not": self.why_not,
            "orders_not_judged": self.set_aside,
        }

    def sentence(self) -> str | None:
        """Say that nobody looks; None: somebody does, and judges every order."""
        if self.why_not is not None:
            since = f" since {self.at.astimezone():%m-%d %H:%M:%S %Z}" if self.at else ""
            return f"nobody has looked{since}: {self.why_not}"
        if self.set_aside:
            return f"{self.set_aside:,} orders could not be judged (the watchdog's log names them)"
        return None


def decide_looked(seen: DutySeen | None, now_at: datetime) -> Looked:
    """Judge the record of the watchdog's rounds."""
    if seen is None:
        return Looked(None, "no watchdog has completed a round yet")
    if seen.done(now_at):
        return Looked(seen.completed_at, None, seen.set_aside)
    if seen.failures:
        why = f"the watchdog's last round failed with {seen.error}"
    else:
        why = "no watchdog has completed a round since"
    return Looked(seen.completed_at, why, seen.set_aside, failed=seen.failures > 0)


_NOW = "SELECT clock_timestamp()"


async def read_looked(connection: asyncpg.Connection) -> Looked:
    """Read whether somebody looks; raises what the database raises."""
    duties = await read_duties(connection)
    return decide_looked(duties.get(WATCH_ROUND), await connection.fetchval(_NOW))
