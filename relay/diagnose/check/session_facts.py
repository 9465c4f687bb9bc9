"""Hops 2 and 5: how our connections come to the database, and what is set for their roles.

Invariant: catalogs alone; a statement that is refused makes its fact None, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

# This connection, and the services' where this user may see them.
_CLEAR_CONNECTIONS: Final = """
SELECT DISTINCT a.application_name AS application, a.usename::text AS username,
       pg_catalog.host(a.client_addr) AS client, pg_catalog.host(inet_server_addr()) AS server
  FROM pg_catalog.pg_stat_activity a
  JOIN pg_catalog.pg_stat_ssl s USING (pid)
  JOIN pg_catalog.pg_stat_gssapi g USING (pid)
 WHERE a.datname = current_database() AND a.client_addr IS NOT NULL
   AND (a.pid = pg_backend_pid() OR a.application_name LIKE 'relay-%')
   AND NOT s.ssl AND NOT coalesce(g.encrypted, false)
"""

# For each role of ours, for everybody in this database, and what this session began with.
_ROLE_SETTINGS: Final = """
SELECT coalesce('role ' || r.rolname, 'this database') AS who,
       lower(split_part(c.setting, '=', 1)) AS name,
       substr(c.setting, strpos(c.setting, '=') + 1) AS value
  FROM pg_catalog.pg_db_role_setting s
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
 CROSS JOIN unnest(s.setconfig) AS c (setting)
 WHERE s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database
                              WHERE datname = current_database()))
   AND (r.oid IS NULL OR r.rolname = current_user OR EXISTS (
        SELECT FROM pg_catalog.pg_roles g
         WHERE g.rolname IN ('relay_publisher', 'relay_confirmer', 'relay_operator')
           AND pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER')))
UNION
SELECT 'the server', lower(name), setting FROM pg_catalog.pg_settings
 WHERE source IN ('configuration file', 'command line', 'override', 'environment variable')
   AND lower(name) = ANY ($1)
"""

READ_ONLY: Final = "default_transaction_read_only"
IDLE_IN_TRANSACTION: Final = "idle_in_transaction_session_timeout"
REPLICATION_ROLE: Final = "session_replication_role"
_ASKED: Final = [READ_ONLY, IDLE_IN_TRANSACTION, REPLICATION_ROLE]


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What was read; None: it could not be, and `refused` says why."""

    clear_connections: tuple[Mapping[str, Any], ...] | None
    role_settings: tuple[Mapping[str, Any], ...] | None
    refused: str = ""


async def gather_sessions(connection: asyncpg.Connection) -> SessionFacts:
    """Read the facts over one connection.

    Raises:
        OSError, asyncpg.InterfaceError: the connection is lost.
    """
    try:
        clear = await connection.fetch(_CLEAR_CONNECTIONS)
        settings = await connection.fetch(_ROLE_SETTINGS, _ASKED)
    except asyncpg.PostgresError as error:
        return SessionFacts(None, None, str(error))
    return SessionFacts(tuple(map(dict, clear)), tuple(map(dict, settings)))
