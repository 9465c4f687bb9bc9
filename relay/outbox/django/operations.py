"""Setup for Django: the migration operation that makes, or brings up to date, the schema `relay`.

Invariant: the same files as `relay migrate`, those that are not in yet, in Django's transaction. A
database that the router keeps the app out of, or that is no PostgreSQL, is left alone.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from django.db import router
from django.db.migrations.operations.base import Operation

from relay.runtime.migration_files import Applied, load, pending, script

_HAS_MIGRATIONS: Final = "SELECT pg_catalog.to_regclass('relay.migration') IS NOT NULL"
_APPLIED: Final = "SELECT series, version, sha256 FROM relay.migration"


class RelaySchema(Operation):  # type: ignore[misc]  # Django has no types
    """Make the schema `relay`, or bring it to the installed version; it is never taken back.

    Needs the rights of `relay migrate`: roles are made, or deploy/roles.sql was run before.
    """

    reduces_to_sql = False
    reversible = False
    atomic = True
    # Django's own attributes of an operation.
    serialization_expand_args: ClassVar[list[str]] = []

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change no model's state."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: Any,
        from_state: Any,  # noqa: ARG002 - Django's signature
        to_state: Any,  # noqa: ARG002
    ) -> None:
        """Run what is pending."""
        connection = schema_editor.connection
        if connection.vendor != "postgresql":
            return
        if not router.allow_migrate(connection.alias, app_label, model_name="outboxevent"):
            return
        found = pending(load(sample=False), _applied(connection))
        if found:
            schema_editor.execute(script(found, "production", within_transaction=True), None)

    def describe(self) -> str:
        """Say it for `sqlmigrate` and `migrate --plan`."""
        return "Makes the schema relay, or brings it up to date"


def _applied(connection: Any) -> Applied:
    with connection.cursor() as cursor:
        cursor.execute(_HAS_MIGRATIONS)
        if not cursor.fetchone()[0]:
            return {}
        cursor.execute(_APPLIED)
        return {(series, version): sha256 for series, version, sha256 in cursor.fetchall()}
