"""Hops 2 and 5: what is in quarantine as JSON lines, byte for byte, and who took it.

Invariant: bytes leave as base64, so that no reader and no terminal changes or obeys them; who took
how many is in the audit log before the first line leaves.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Any

import asyncpg

from relay.repair.held import Content, Held, pages
from relay.repair.selection import Selection
from relay.runtime.audit import Action, note_action


async def export(
    connection: asyncpg.Connection, ids: Sequence[int], selection: Selection, *, who: str, why: str
) -> AsyncIterator[str]:
    """Yield a line for each row, without its line end.

    Raises:
        asyncpg.InsufficientPrivilegeError: payloads are for relay_operator.
    """
    detail = {"count": len(ids), "selection": selection.as_data()}
    await note_action(connection, Action(who, "quarantine_export", None, why, detail=detail))
    async for page in pages(connection, ids):
        for held, content in page:
            yield json.dumps(as_line(held, content), default=str)


def as_line(held: Held, content: Content | None) -> dict[str, Any]:
    """Return a row with its bytes in base64; `value` null: a record without one, or gone."""
    data = asdict(held)
    if content is not None:
        data["key_base64"] = _base64(content.key)
        data["value_base64"] = _base64(content.value)
        data["headers"] = [[name, _base64(value)] for name, value in content.headers]
    return data


def _base64(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()
