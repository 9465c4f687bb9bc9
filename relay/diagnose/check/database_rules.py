"""Hops 1, 2 and 5: what of PostgreSQL's state would hold up or lose an order.

Invariant: pure; a fact that could not be read is `unknown`, never ok.
"""

from __future__ import annotations

from collections.abc import Iterator

from relay.diagnose.check.database_facts import DatabaseFacts
from relay.diagnose.check.pooler import PoolerFacts
from relay.diagnose.check.result import (
    CLOCK_TOLERANCE_SECONDS,
    Result,
    failed,
    ok,
    unknown,
    warning,
)

NEARLY_ALL = 0.9
DAYS_AHEAD_AT_LEAST = 2
_OBSERVE = "run `relay check` as a member of relay_operator (or as the owner)"


def judge_database(facts: DatabaseFacts) -> list[Result]:
    """Return every check of the database."""
    return [
        *_server(facts),
        *_writers(facts),
        *_outbox(facts),
        *_tables(facts),
        *_access(facts),
        *_checkpoint(facts),
    ]


def _server(facts: DatabaseFacts) -> Iterator[Result]:
    server = facts.server
    for setting in ("fsync", "full_page_writes"):
        if server[setting]:
            yield ok(f"database.{setting}", "on")
        else:
            yield failed(
                f"database.{setting}",
                "off: a crash of the server can lose committed orders",
                f"ALTER SYSTEM SET {setting} = on; then reload",
            )
    yield _connections(server["connections"], server["max_connections"])
    yield _clock(facts.clock_offset.total_seconds())
    yield _pooler(facts)


def _connections(used: int, most: int) -> Result:
    if used < NEARLY_ALL * most:
        return ok("database.connections", f"enough are free [{used} of {most} in use]")
    return warning(
        "database.connections",
        f"nearly all are in use [{used} of {most}]",
        "raise max_connections, or find who holds them in pg_stat_activity",
    )


def _clock(offset_seconds: float) -> Result:
    if abs(offset_seconds) <= CLOCK_TOLERANCE_SECONDS:
        return ok("clock.database", f"agrees with this machine's [{offset_seconds:+.3f} s]")
    return warning(
        "clock.database",
        f"differs from this machine's [{offset_seconds:+.1f} s]",
        "let both follow a time server: times of hops on different machines cannot be compared",
    )


def judge_pooler(facts: PoolerFacts) -> list[Result]:
    """Return what stands between this program and PostgreSQL does to the services."""
    results = []
    if facts.untried is not None:
        fix = "allow this user two connections more, then again"
        results.append(unknown("database.sessions", facts.untried, fix))
    elif facts.shared is None:
        results.append(ok("database.sessions", "each connection keeps its own"))
    else:
        results.append(
            failed(
                "database.sessions",
                f"connections share them: {facts.shared}",
                "a pooler gives a session to several: pool_mode=session in PgBouncer for the "
                "services of the relay, or connect to PostgreSQL directly",
            )
        )
    if facts.startup is None:
        results.append(ok("database.startup", "what a connection asks for at its start holds"))
    else:
        results.append(
            failed(
                "database.startup",
                f"what a connection asks for at its start does not hold: {facts.startup}",
                "connect to PostgreSQL directly: something on the way drops session settings, "
                "and the services could not pin their plans or bound their transactions",
            )
        )
    return results


def _pooler(facts: DatabaseFacts) -> Result:
    seen, own = facts.server["seen_port"], facts.client_port
    if own is None or seen == own:
        return ok("database.pooler", "the connection is direct")
    return warning(
        "database.pooler",
        "something stands between this program and PostgreSQL (a pooler or proxy)",
        "see database.sessions and database.startup; a pooler gains nothing for the few "
        "connections of the relay",
    )


def _writers(facts: DatabaseFacts) -> Iterator[Result]:
    name = "place.synchronous_commit"
    if facts.async_committers is None:
        yield unknown(name, facts.refused["synchronous_commit"], _OBSERVE)
    elif facts.async_committers:
        who = ", ".join(facts.async_committers)
        yield failed(
            name,
            f"off for {who}: a crash of the server takes back orders that were confirmed to the "
            "customer, and events that were published",
            "ALTER ROLE ... RESET synchronous_commit (or on) for whoever writes orders",
        )
    else:
        yield ok(name, "on for every role here")
    for transaction in facts.old_transactions or ():
        yield warning(
            f"place.open_transaction:{transaction['who']}",
            f"one is open for long [{transaction['age_seconds']:.0f} s, {transaction['what']}]",
            "its orders are published when it commits; end it if it was forgotten "
            "(pg_terminate_backend, ROLLBACK PREPARED)",
        )


def _outbox(facts: DatabaseFacts) -> Iterator[Result]:
    if facts.outbox is None:
        why = facts.refused.get("outbox", "relay.outbox is missing")
        yield failed("outbox.table", why, "relay migrate")
        return
    if facts.append_error is not None:
        yield failed(
            "outbox.append",
            f"an append as the order service fails: {facts.append_error}",
            "grant relay_writer what 0002_roles.sql says, or fix the trigger or policy named",
        )
    cache = facts.outbox["sequence_cache"]
    if cache == 1:
        yield ok("outbox.sequence_cache", "1")
    else:
        yield failed(
            "outbox.sequence_cache",
            f"{cache}: sessions draw ids in blocks, and an order's later event may come first",
            "ALTER TABLE relay.outbox ALTER COLUMN id SET CACHE 1",
        )
    yield _partitions(facts.outbox["days_ahead"], has_today=facts.outbox["has_today"])
    yield _default_rows(facts)


def _partitions(days_ahead: int, *, has_today: bool) -> Result:
    name, fix = (
        "outbox.partitions",
        "start the relay (its maintenance makes them), or relay migrate",
    )
    if not has_today:
        return failed(name, "today has none: orders go to DEFAULT", fix)
    if days_ahead < DAYS_AHEAD_AT_LEAST:
        return warning(name, "fewer than two days are made ahead", fix)
    return ok(name, "made ahead")


def _default_rows(facts: DatabaseFacts) -> Result:
    name = "outbox.default_partition"
    if facts.default_rows is None:
        return unknown(name, facts.refused.get("default", "not read"), _OBSERVE)
    if facts.default_rows == 0:
        return ok(name, "empty")
    return warning(
        name,
        f"holds rows [{facts.default_rows} or more]: their days had no partition",
        "the relay's maintenance sorts them in; by hand: CALL relay.empty_default()",
    )


def _tables(facts: DatabaseFacts) -> Iterator[Result]:
    if facts.triggers is None or facts.constraints is None:
        why = facts.refused.get("triggers") or facts.refused.get("constraints", "")
        yield unknown("orders.triggers", why, _OBSERVE)
        return
    disabled = [t for t in facts.triggers if t["disabled"]]
    for trigger in disabled:
        yield failed(
            f"orders.trigger:{trigger['table_name']}.{trigger['name']}",
            "disabled: what it does for an order no longer happens",
            f"ALTER TABLE {trigger['table_name']} ENABLE TRIGGER {trigger['name']}",
        )
    if not disabled:
        known = sorted(f"{t['table_name']}.{t['name']}" for t in facts.triggers)
        yield ok("orders.triggers", f"enabled: {', '.join(known)}" if known else "there are none")
    # Named, so that one that is gone shows among what changed.
    names = sorted(f"{c['table_name']}.{c['name']}" for c in facts.constraints)
    yield ok("orders.constraints", ", ".join(names) if names else "there are none")
    for constraint in facts.constraints:
        if constraint["validated"]:
            continue
        yield warning(
            f"orders.constraint:{constraint['table_name']}.{constraint['name']}",
            "was never validated: rows may contradict it",
            f"ALTER TABLE {constraint['table_name']} VALIDATE CONSTRAINT {constraint['name']}",
        )


def _access(facts: DatabaseFacts) -> Iterator[Result]:
    if facts.public_tables:
        yield failed(
            "access.public",
            f"everybody may use {', '.join(facts.public_tables)}",
            "REVOKE ALL ON ALL TABLES IN SCHEMA relay FROM PUBLIC",
        )
    elif facts.public_tables is None:
        yield unknown("access.public", facts.refused["public"], _OBSERVE)
    else:
        yield ok("access.public", "everybody may use nothing of ours")
    for made_by in facts.default_privileges or ():
        yield warning(
            f"access.default_privileges:{made_by}",
            "new tables of this role are open to everybody",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {made_by} REVOKE ALL ON TABLES FROM PUBLIC",
        )
    yield from _members(facts)


def _members(facts: DatabaseFacts) -> Iterator[Result]:
    if facts.role_members is None:
        yield unknown("access.roles", facts.refused["members"], _OBSERVE)
        return
    missing = {"relay_writer", "relay_publisher", "relay_confirmer"} - facts.role_members.keys()
    if missing:
        yield failed("access.roles", f"missing: {', '.join(sorted(missing))}", "relay migrate")
        return
    nobody = sorted(name for name, members in facts.role_members.items() if not members)
    if nobody:
        yield warning(
            "access.roles",
            f"without a member: {', '.join(nobody)}",
            "give each service a login of its own: GRANT relay_publisher TO ...; today they "
            "run with more rights than they need",
        )
    else:
        yield ok("access.roles", "each has members")


def _checkpoint(facts: DatabaseFacts) -> Iterator[Result]:
    name, point = "publish.checkpoint", facts.checkpoint
    if point is None:
        why = facts.refused.get("checkpoint", "there is no row for shard 0")
        yield failed(name, why, "relay migrate")
    elif point["ahead"] or point["foreign_system"]:
        yield failed(
            name,
            "belongs to another database, or to a later state of this one (a restore?)",
            "stop the relay, then: relay rebaseline",
        )
    else:
        yield ok(name, "belongs to this database")
