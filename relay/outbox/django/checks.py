"""Hop 1 for Django: `manage.py check --database default`: is the outbox there, and may we write it?

Invariant: warnings only: `manage.py migrate`, which makes the outbox, checks first, and stops at an
error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.core.checks import CheckMessage, Warning  # noqa: A004 - Django's own name
from django.db import DatabaseError, connections, router

from relay.outbox.django.models import OutboxEvent

_FOUND: Final = """
SELECT CASE WHEN pg_catalog.to_regclass('relay.outbox') IS NULL THEN NULL
            ELSE pg_catalog.has_schema_privilege('relay', 'USAGE')
                 AND pg_catalog.has_column_privilege('relay.outbox', 'payload', 'INSERT') END
"""
_DOMAIN: Final = "relay_outbox"


def check_outbox(
    app_configs: Sequence[Any] | None = None,  # noqa: ARG001 - Django's signature
    databases: Sequence[str] | None = None,
    **_: Any,
) -> list[CheckMessage]:
    """Say what of the outbox is missing in each database that it belongs to."""
    return [
        message
        for alias in databases or ()
        if router.allow_migrate_model(alias, OutboxEvent)
        for message in _check(alias)
    ]


def _check(alias: str) -> list[CheckMessage]:
    connection = connections[alias]
    if connection.vendor != "postgresql":
        return [
            Warning(
                f"the outbox is in PostgreSQL, and {alias!r} is {connection.vendor}",
                hint="A database router's allow_migrate says which database the app belongs to.",
                id=f"{_DOMAIN}.W001",
            )
        ]
    try:
        with connection.cursor() as cursor:
            cursor.execute(_FOUND)
            (may_write,) = cursor.fetchone()
    except DatabaseError as error:
        return [Warning(f"{alias!r}: {error}", hint="See that it answers.", id=f"{_DOMAIN}.W002")]
    if may_write is None:
        hint = f"manage.py migrate {_DOMAIN}, or relay migrate."
        return [Warning(f"{alias!r} has no relay.outbox", hint=hint, id=f"{_DOMAIN}.W003")]
    if not may_write:
        hint = f"GRANT relay_writer TO {connection.settings_dict.get('USER') or 'this login'};"
        return [
            Warning(f"may not write relay.outbox in {alias!r}", hint=hint, id=f"{_DOMAIN}.W004")
        ]
    return []
