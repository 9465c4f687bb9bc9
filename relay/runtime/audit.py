"""Every hop: what people (and upkeep) did to the system, and why: one row of relay.audit_log each.

Invariant: the row is written in the transaction of what it tells, so that neither is there without
the other. `login` and `at` are the database's own words: who acts cannot choose them.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg

_WRITE = """
INSERT INTO relay.audit_log (who, action, subject, why, result, detail)
VALUES ($1, $2, $3, $4, $5, $6::jsonb)
RETURNING audit_id
"""


@dataclass(frozen=True, slots=True)
class Action:
    """What was done.

    Attributes:
        who: as the person calls himself; the login is noted beside it.
        name: `close`, `quarantine_release`, `rebaseline`, `replay_started`, ...
        subject: the order, incident, replay or checkpoint it was done to; None: several.
        why: the reason given.
        result: `done`, or what came of it, in a word or two.
        detail: what else is known: counts, ids, before and after.
    """

    who: str
    name: str
    subject: str | None
    why: str | None
    result: str = "done"
    detail: Mapping[str, Any] = field(default_factory=dict)


async def note_action(connection: asyncpg.Connection, action: Action) -> int:
    """Write one row, in the caller's transaction; return its number.

    Raises:
        asyncpg.InsufficientPrivilegeError: this login may not act (relay_observer).
    """
    number: int = await connection.fetchval(
        _WRITE,
        action.who,
        action.name,
        action.subject,
        action.why,
        action.result,
        json.dumps(dict(action.detail), default=str),
    )
    return number


def this_person() -> str:
    """Return user and host, for whoever did not say `--by`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
