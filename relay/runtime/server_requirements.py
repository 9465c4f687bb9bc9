"""Which PostgreSQL servers and databases this program works with.

Invariant: asked before anything is written or half applied, by `relay migrate`, by the script that
it prints, at the start of every service, and by `relay check`. The answer costs no round trip: a
server says both facts at login.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncpg

OLDEST_MAJOR: Final = 14
"""The oldest major version that the tests run on."""

ENCODING: Final = "UTF8"


class UnsuitableServerError(Exception):
    """This PostgreSQL, or this database, cannot be used; the message says why and what to do."""


def version_problem(major: int) -> str | None:
    """Return what is wrong with a server's major version, and what to do; None: nothing."""
    if major >= OLDEST_MAJOR:
        return None
    return f"PostgreSQL {major} is too old: upgrade to {OLDEST_MAJOR} or newer"


def encoding_problem(encoding: str) -> str | None:
    """Return what is wrong with a database's encoding, and what to do; None: nothing.

    Payloads, ids and returns are Unicode text from anywhere. What an encoding cannot hold would
    fail an order, or could not even be noted as refused.
    """
    if encoding == ENCODING:
        return None
    return (
        f"the database's encoding is {encoding}, and {ENCODING} is needed: events and returns hold"
        " characters that it cannot store. Make a new database (CREATE DATABASE ... ENCODING"
        " 'UTF8' TEMPLATE template0) and restore a dump into it"
    )


def server_encoding(connection: asyncpg.Connection) -> str:
    """Return the encoding of the connection's database, as the server said at login."""
    found: str = connection.get_settings().server_encoding
    return found


def require_suitable_server(connection: asyncpg.Connection) -> None:
    """Refuse a server or a database that cannot be used.

    Raises:
        UnsuitableServerError: too old, or not UTF8.
    """
    problem = version_problem(connection.get_server_version().major) or encoding_problem(
        server_encoding(connection)
    )
    if problem is not None:
        raise UnsuitableServerError(problem)


# The same for those who apply the printed script with a client of their own.
GUARD: Final = f"""\
DO $$ BEGIN
    IF current_setting('server_version_num')::int < {OLDEST_MAJOR}0000 THEN
        RAISE EXCEPTION 'this PostgreSQL is too old: upgrade to {OLDEST_MAJOR} or newer';
    ELSIF current_setting('server_encoding') <> '{ENCODING}' THEN
        RAISE EXCEPTION 'the encoding of this database is %, and {ENCODING} is needed',
                        current_setting('server_encoding')
            USING HINT = 'CREATE DATABASE ... ENCODING ''{ENCODING}'' TEMPLATE template0';
    END IF;
END $$;
"""
