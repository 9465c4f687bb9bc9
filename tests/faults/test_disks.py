"""Disks that are full to the last byte, PostgreSQL's and the broker's, in a run of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = (sys.executable, "-m", "tests.faults", "--rounds", "1", "--orders", "300")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["PostgreSQL's disk full", "broker's disk full"])
def test_a_full_disk_breaks_no_promise(kind: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = subprocess.run(
        [*RUN, "--kind", kind, "--keep", tmp_path / "kept", "--json", report],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    if done.returncode == 2 and "disks cannot be filled here" in done.stderr:
        pytest.skip(done.stderr.strip())  # neither root nor a kernel that lets others mount
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(report.read_text())
    assert found["faults"] == {kind: 1}
    assert "No space left on device" in _said(tmp_path / "kept", kind)


def _said(kept: Path, kind: str) -> str:
    """Return what the server itself said."""
    logs = "kafka*.log" if kind.startswith("broker") else "postgres*.log"
    return "".join(file.read_text("utf-8", errors="replace") for file in kept.glob(logs))
