"""Hops 2 and 5: connections that others could read, and settings of roles that stop the services.

Invariant: pure; what every connection of ours sets for itself (relay/runtime/session_settings.py)
is no finding, whatever a role has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any, Final

from relay.diagnose.check.result import Result, failed, ok, unknown, warning
from relay.diagnose.check.session_facts import (
    IDLE_IN_TRANSACTION,
    READ_ONLY,
    REPLICATION_ROLE,
    SessionFacts,
)
from relay.runtime.server_requirements import encoding_problem, version_problem

SHORTEST_IDLE_MS: Final = 5_000
"""Transactions of ours wait for the next statement a few milliseconds, on a busy machine longer."""

_ON: Final = frozenset({"on", "true", "yes", "1", "t", "y", "tr", "tru", "ye"})
_UNITS_MS: Final = {"": 1, "us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000}
_DURATION: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?\s*")


def judge_server(major: int, encoding: str) -> list[Result]:
    """Return whether this server and database can be used at all."""
    problem = version_problem(major)
    results = [
        ok("database.version", f"PostgreSQL {major}")
        if problem is None
        else failed("database.version", problem, "upgrade the server (pg_upgrade)")
    ]
    problem = encoding_problem(encoding)
    results.append(
        ok("database.encoding", encoding)
        if problem is None
        else failed(
            "database.encoding",
            problem,
            "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, and restore a dump into it",
        )
    )
    return results


def judge_sessions(facts: SessionFacts) -> list[Result]:
    """Return how private our connections are, and which settings of roles stop the services."""
    if facts.clear_connections is None or facts.role_settings is None:
        fix = "run `relay check` as a member of relay_operator (or as the owner)"
        return [unknown("database.encryption", facts.refused, fix)]
    return [_encryption(facts.clear_connections), *_settings(facts.role_settings)]


def _encryption(connections: tuple[Mapping[str, Any], ...]) -> Result:
    name = "database.encryption"
    seen = sorted(
        {
            f"{c['application']} as {c['username']} from {c['client']}"
            for c in connections
            if not _stays_on_the_machine(c["client"], c["server"])
        }
    )
    if not seen:
        return ok(name, "connections are encrypted, or stay on the server's machine")
    return warning(
        name,
        f"not encrypted: {', '.join(seen)}: orders and returns can be read on the way",
        "add sslmode=verify-full&sslrootcert=FILE to DATABASE_URL (and ssl = on to the server)",
    )


def _stays_on_the_machine(client: str, server: str | None) -> bool:
    return client == server or ip_address(client.partition("%")[0]).is_loopback


def _settings(settings: tuple[Mapping[str, Any], ...]) -> Iterator[Result]:
    found = [result for setting in settings if (result := _setting(**setting)) is not None]
    if not found:
        yield ok("database.role_settings", "none stops a service")
    yield from found


def _setting(who: str, name: str, value: str) -> Result | None:
    subject = f"database.role_settings:{name} of {who}"
    reset = f"reset it for {who} (ALTER ROLE, ALTER DATABASE or ALTER SYSTEM ... RESET {name})"
    match name:
        case _ if name == READ_ONLY and value.lower() in _ON:
            found = "on: nothing can be published, applied or even recorded; the services wait"
            # The reset is a write itself, which a session that obeys the setting is refused.
            return failed(subject, found, f"SET {name} = off; then {reset}")
        case _ if name == REPLICATION_ROLE and value.lower() == "replica":
            found = "replica: triggers do not fire, also those of the orders table"
            return failed(subject, found, reset)
        case _ if name == IDLE_IN_TRANSACTION and 0 < _milliseconds(value) < SHORTEST_IDLE_MS:
            found = f"{value}: a batch that waits for a moment loses its connection and begins anew"
            return warning(subject, found, reset)
    return None


def _milliseconds(value: str) -> float:
    """Return a duration as PostgreSQL writes it; 0 when it is none (or says: no limit)."""
    match = _DURATION.fullmatch(value)
    if match is None:
        return 0
    return float(match[1]) * _UNITS_MS.get(match[2] or "", 86_400_000)
