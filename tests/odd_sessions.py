"""What somebody may have set for a database or a role: no statement's answer may depend on it."""

import asyncpg

ODD = {
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "extra_float_digits": "-5",
    "bytea_output": "escape",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
    "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "2s",
    "lock_timeout": "1s",
    "idle_session_timeout": "1s",
    "search_path": "",
}


async def make_odd(connection: asyncpg.Connection, settings: dict[str, str] | None = None) -> None:
    """Give every later session of this database these settings."""
    database = await connection.fetchval("SELECT quote_ident(current_database())")
    for name, value in (ODD if settings is None else settings).items():
        await connection.execute(f"ALTER DATABASE {database} SET {name} = '{value}'")
