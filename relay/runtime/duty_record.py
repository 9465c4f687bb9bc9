"""Which duties are done, and which fail: written by whoever does them, read by commands.

Invariant: an answer that nothing was found is worth as much as the time of the last completed look;
that time is the database's. A duty that cannot write its record (the database is away) is told by
the record's age: whoever did it said by when it would be completed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from relay.runtime.failure_code import failure_code
from relay.runtime.process import instance_name

WATCH_ROUND: Final = "watchdog_round"
WATCH_POSITIONS: Final = "watchdog_positions"
UPKEEP: Final = "upkeep"

_GRACE_SECONDS: Final = 60.0
_ERROR_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True)
class DutySeen:
    """One duty, as it stands.

    Attributes:
        due_at: it should have been completed again by then.
        failures: since it was last completed; `error` is the last one's.
        set_aside: orders that could not be judged.
    """

    duty: str
    instance: str
    completed_at: datetime | None
    due_at: datetime | None
    failed_at: datetime | None
    failures: int
    error: str | None
    failure_code: str | None
    set_aside: int

    def done(self, now_at: datetime) -> bool:
        """Tell whether it is being done: its last run was completed, and none is overdue."""
        if self.completed_at is None or self.failures:
            return False
        return self.due_at is None or now_at <= self.due_at


_COMPLETED: Final = """
INSERT INTO relay.duty_record AS d (duty, instance, completed_at, due_at, set_aside)
VALUES ($1, $2, clock_timestamp(), clock_timestamp() + make_interval(secs => $3), $4)
ON CONFLICT (duty) DO UPDATE
   SET instance = excluded.instance, completed_at = excluded.completed_at,
       due_at = excluded.due_at, set_aside = excluded.set_aside,
       failures = 0, error = NULL, failure_code = NULL, failed_at = NULL
"""


async def duty_completed(
    connection: asyncpg.Connection, duty: str, *, again_within_seconds: float, set_aside: int = 0
) -> None:
    """Note that a duty was completed.

    Args:
        connection: in autocommit.
        duty: which.
        again_within_seconds: when it will be begun again; a grace is added.
        set_aside: orders that it could not judge.
    """
    within = again_within_seconds + _GRACE_SECONDS
    await connection.execute(_COMPLETED, duty, instance_name(), within, set_aside)


_FAILED: Final = """
INSERT INTO relay.duty_record AS d (duty, instance, failed_at, failures, error, failure_code)
VALUES ($1, $2, clock_timestamp(), 1, $3, $4)
ON CONFLICT (duty) DO UPDATE
   SET instance = excluded.instance, failed_at = excluded.failed_at, failures = d.failures + 1,
       error = excluded.error, failure_code = excluded.failure_code
"""


async def duty_failed(connection: asyncpg.Connection, duty: str, error: BaseException) -> None:
    """Note that a run of a duty failed."""
    text = f"{type(error).__name__}: {error}".replace("\0", "")[:_ERROR_CHARACTERS]
    code = failure_code(error, "relay")
    await connection.execute(_FAILED, duty, instance_name(), text, code)


_READ: Final = """
SELECT duty, instance, completed_at, due_at, failed_at, failures, error, failure_code, set_aside
  FROM relay.duty_record
"""


async def read_duties(connection: asyncpg.Connection) -> dict[str, DutySeen]:
    """Return all duties by name."""
    return {row["duty"]: DutySeen(*row) for row in await connection.fetch(_READ)}
