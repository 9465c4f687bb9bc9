"""A real PgBouncer between us and PostgreSQL: its modes are told by what they do to sessions."""

import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from relay.runtime.database import connect
from relay.runtime.session_settings import PINNED

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
REQUIRED = "RELAY_TEST_REQUIRE_JAEGER" in os.environ  # set in CI, where nothing is skipped

pytestmark = pytest.mark.skipif(
    PGBOUNCER is None and not REQUIRED, reason="pgbouncer is not installed (a Debian package)"
)


@pytest.fixture
def bouncer(database, tmp_path):
    """Start PgBouncer in a mode; returns the URL of the test's database through it."""
    started = []

    def start(mode, *settings):
        where = urlsplit(database)
        port = _free_port()
        folder = tmp_path / f"pgbouncer-{len(started)}"
        folder.mkdir()
        users = folder / "users.txt"
        users.write_text(f'"{where.username}" "{where.password or ""}"\n')
        config = folder / "pgbouncer.ini"
        config.write_text(
            "[databases]\n"
            f"* = host={where.hostname} port={where.port} password={where.password or ''}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {users}\npool_mode = {mode}\n" + "\n".join(settings)
        )
        command = [str(PGBOUNCER), str(config)]
        if os.geteuid() == 0:  # it refuses to run as root
            nobody = pwd.getpwnam("nobody")
            for path in (folder, users, config):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            _let_through(folder)
            command = [str(PGBOUNCER), "-u", "nobody", str(config)]
        with (folder / "log").open("wb") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        _wait_for(port, folder / "log")
        return where._replace(netloc=f"{where.username}:{where.password}@127.0.0.1:{port}").geturl()

    yield start
    for one in started:
        one.terminate()
        one.wait(10)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _let_through(folder: Path):
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)


def _wait_for(port, log):
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_a_mode_that_shares_sessions_fails(check, bouncer, mode):
    url = bouncer(mode, "ignore_startup_parameters = plan_cache_mode")
    checked = await check(dsn=url)
    assert checked.states["database.sessions"] == "failed"
    assert "pool_mode=session" in checked.fix("database.sessions")
    assert not checked.report.healthy


@pytest.mark.parametrize("ignored", [(), ("ignore_startup_parameters = plan_cache_mode",)])
async def test_in_session_mode_everything_holds(check, bouncer, ignored):
    """Session settings are set after the login: a pooler that drops or refuses others is fine."""
    checked = await check(dsn=bouncer("session", *ignored))
    assert checked.states["database.sessions"] == "ok"
    assert checked.states["database.startup"] == "ok"
    assert checked.states["database.pooler"] == "warning"


async def test_in_session_mode_a_connection_has_the_session_settings_of_all(bouncer, database):
    """What the last client of the server connection left behind is not ours."""
    url = bouncer("session", "default_pool_size = 1")
    before = await asyncpg.connect(url)
    await before.execute("SET bytea_output = escape")
    await before.close()
    connection = await connect(url, "relay-test", server_settings={"plan_cache_mode": "auto"})
    shown = {name: await connection.fetchval("SELECT current_setting($1)", name) for name in PINNED}
    assert shown == dict(PINNED)
    await connection.close()


async def test_a_direct_connection_is_fine(check):
    checked = await check()
    for name in ("database.sessions", "database.startup", "database.pooler"):
        assert checked.states[name] == "ok"
