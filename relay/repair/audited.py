"""Reads relay.audit_log: who did what to the system, when, why, and what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

_READ: Final = """
SELECT audit_id, at, login, who, action, subject, why, result, detail::text
  FROM relay.audit_log
 WHERE ($1::timestamptz IS NULL OR at >= $1)
   AND ($2::text IS NULL OR action = $2) AND ($3::text IS NULL OR subject = $3)
   AND ($5::text IS NULL OR who = $5) AND ($6::bigint IS NULL OR audit_id < $6)
 ORDER BY audit_id DESC LIMIT $4
"""


@dataclass(frozen=True, slots=True)
class Audited:
    """A row of the audit log. `login` is the database's word, `who` the person's own."""

    audit_id: int
    at: datetime
    login: str
    who: str
    action: str
    subject: str | None
    why: str | None
    result: str
    detail: Any


async def read_audit(
    connection: asyncpg.Connection,
    since: datetime | None = None,
    action: str | None = None,
    subject: str | None = None,
    at_most: int = 50,
    *,
    who: str | None = None,
    before: int | None = None,
) -> list[Audited]:
    """Return rows, the newest first; None: whatever it is; `before`: only those before a row."""
    rows = await connection.fetch(_READ, since, action, subject, at_most, who, before)
    return [Audited(**{**dict(row), "detail": json.loads(row["detail"])}) for row in rows]
