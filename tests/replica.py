"""A PostgreSQL that can have a streaming standby, which can be promoted."""

import os
import subprocess
from pathlib import Path
from typing import Any

from relay.embedded import EmbeddedPostgres
from relay.embedded.folders import server_account
from relay.embedded.process import plain_environment


class Replicated(EmbeddedPostgres):
    """A server that may be a standby."""

    def _answers(self, server: Any) -> bool:
        file = self._data / "postmaster.pid"
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) < 8 or lines[0] != str(server.pid):
            return False
        return lines[7].strip() in ("ready", "standby")

    def run(self, program: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess[Any]:
        """Run one of PostgreSQL's programs as the servers' account."""
        account = server_account()
        return subprocess.run(
            [self._program(program), *arguments],
            check=True,
            capture_output=True,
            cwd="/",
            env=plain_environment(),
            user=account and account[0],
            group=account and account[1],
            extra_groups=account and [],
            timeout=60,
            **more,
        )

    def standby(self, folder: Path) -> "Replicated":
        """Make a standby of this server, with pg_basebackup; not started yet."""
        data = folder / "data"
        data.mkdir(parents=True, mode=0o700)
        if account := server_account():
            os.chown(data, *account)
        self.run(
            "pg_basebackup", "-d", self.dsn(), "-D", str(data), "-R", "-X", "stream", "-c", "fast"
        )
        (folder / "password").write_text((self.folder / "password").read_text())
        return Replicated(folder, settings=self.settings)
