"""`relay check`: connections that others can read, roles whose settings stop a service."""

from typing import Any

import pytest

from relay.diagnose.check.result import Result, State
from relay.diagnose.check.session_facts import SessionFacts
from relay.diagnose.check.session_rules import judge_server, judge_sessions


def by_name(results: list[Result]) -> dict[str, Result]:
    return {result.name: result for result in results}


def clear(client: str, server: str | None = "10.0.0.1") -> dict[str, Any]:
    return {
        "application": "relay-run-writer",
        "username": "r",
        "client": client,
        "server": server,
    }


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.0.1", "::1", "10.0.0.1"])
def test_what_stays_on_the_machine_needs_no_encryption(client: str) -> None:
    found = by_name(judge_sessions(SessionFacts((clear(client),), ())))
    assert found["database.encryption"].state is State.OK


@pytest.mark.parametrize("client", ["10.0.0.9", "2001:db8::1", "fe80::1%eth0"])
def test_a_connection_in_the_clear_is_named(client: str) -> None:
    found = by_name(judge_sessions(SessionFacts((clear(client), clear("::1")), ())))
    result = found["database.encryption"]
    assert result.state is State.WARNING
    assert f"relay-run-writer as r from {client}" in result.found
    assert "::1" not in result.found.replace("::1%", "").replace("db8::1", "")
    assert "sslmode=verify-full" in result.fix


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [
        ("default_transaction_read_only", "on", State.FAILED),
        ("default_transaction_read_only", "true", State.FAILED),
        ("default_transaction_read_only", "off", None),
        ("session_replication_role", "replica", State.FAILED),
        ("idle_in_transaction_session_timeout", "300", State.WARNING),
        ("idle_in_transaction_session_timeout", "2s", State.WARNING),
        ("idle_in_transaction_session_timeout", "0", None),
        ("idle_in_transaction_session_timeout", "1min", None),
        ("idle_in_transaction_session_timeout", "1d", None),
        ("idle_session_timeout", "1s", None),  # set by every connection of ours
        ("timezone", "Asia/Shanghai", None),
    ],
)
def test_settings_of_roles(name: str, value: str, state: State | None) -> None:
    setting = {"who": "role relay_login", "name": name, "value": value}
    found = by_name(judge_sessions(SessionFacts((), (setting,))))
    if state is None:
        assert found["database.role_settings"].state is State.OK
    else:
        result = found[f"database.role_settings:{name} of role relay_login"]
        assert result.state is state
        assert "role relay_login" in result.fix


def test_a_read_only_setting_is_reset_by_a_session_that_may_write() -> None:
    name = "default_transaction_read_only"
    setting = {"who": "this database", "name": name, "value": "on"}
    found = by_name(judge_sessions(SessionFacts((), (setting,))))
    fix = found[f"database.role_settings:{name} of this database"].fix
    assert fix.startswith(f"SET {name} = off; then reset it for this database")


def test_what_was_not_read_is_unknown() -> None:
    (result,) = judge_sessions(SessionFacts(None, None, "permission denied"))
    assert result.state is State.UNKNOWN


@pytest.mark.parametrize(
    ("major", "encoding", "failing"),
    [
        (18, "UTF8", set()),
        (14, "UTF8", set()),
        (13, "UTF8", {"database.version"}),
        (15, "LATIN1", {"database.encoding"}),
        (15, "SQL_ASCII", {"database.encoding"}),
    ],
)
def test_servers_that_cannot_be_used(major: int, encoding: str, failing: set[str]) -> None:
    results = judge_server(major, encoding)
    assert {r.name for r in results if r.state is State.FAILED} == failing
