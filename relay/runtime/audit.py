"""What people (and upkeep) did to the system, and why: one row of relay.audit_log each.

Invariant: the row is written in the transaction of what it reports, so that neither is there
without the other. `login` and `at` are the database's own words: who acts cannot choose them.
Decisions that change a row (quarantine, cases, incidents, replays) are noted by the database's
triggers, for SQL by hand too; a program only announces who decides and why.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

_WRITE = """
INSERT INTO relay.audit_log (who, action, subject, why, result, detail)
VALUES ($1, $2, $3, $4, $5, $6::jsonb)
RETURNING audit_id
"""

# For the rest of the transaction; an empty text counts as none.
_ANNOUNCE = """
SELECT set_config('relay.audit_who', $1, true), set_config('relay.audit_why', $2, true),
       set_config('relay.audit_result', $3, true), set_config('relay.audit_detail', $4, true)
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


async def announce(
    connection: asyncpg.Connection,
    who: str,
    why: str | None,
    *,
    result: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Say who decides what follows in this transaction, and why: the database's triggers note it.

    Args:
        connection: in a transaction; in autocommit it would be forgotten at once.
        who: as the person calls himself.
        why: the reason given.
        result: what came of it, where that is known beforehand; None: the trigger's own word.
        detail: what else is known, beside what the trigger sees.
    """
    known = "" if detail is None else json.dumps(dict(detail), default=str)
    await connection.execute(_ANNOUNCE, who, why or "", result or "", known)


async def note_look(
    connection: asyncpg.Connection, quarantine_ids: Sequence[int], who: str | None = None
) -> None:
    """Note that somebody was shown the bytes of what is in quarantine; None: this user.

    Raises:
        asyncpg.InsufficientPrivilegeError: this login may not see them (relay_observer).
    """
    detail = {"count": len(quarantine_ids), "ids": list(quarantine_ids)}
    await note_action(
        connection, Action(who or this_person(), "quarantine_show", None, None, detail=detail)
    )


def this_person() -> str:
    """Return user and host, for whoever did not say `--by`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
