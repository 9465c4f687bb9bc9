"""The file that makes this relay a system of the peers' harness says what schemas/sql says."""

from __future__ import annotations

import tomllib
from pathlib import Path

from benchmarks.peers import outbox_relay


def test_it_holds_the_schema_as_it_is_written() -> None:
    system = tomllib.loads(outbox_relay.text())
    files = sorted((Path(__file__).parents[3] / "schemas/sql").glob("*.sql"))
    assert files
    for path in files:
        assert path.read_text(encoding="utf-8").rstrip() in system["schema"]
    assert set(system) == {"about", "insert", "start", "schema"}
