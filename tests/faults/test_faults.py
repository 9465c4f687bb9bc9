"""Rounds of faults as part of the tests; `make faults ROUNDS=200` plays as many as wanted."""

import argparse
import os
import secrets
from pathlib import Path

import pytest

from tests.faults.__main__ import play
from tests.faults.report import Report

ROUNDS = 20
MINUTES = 5.0


@pytest.mark.timeout(480)
async def test_rounds_of_faults_break_no_promise(tmp_path: Path) -> None:
    """FAULTS_SEED repeats a run."""
    options = argparse.Namespace(
        rounds=ROUNDS,
        orders=300,
        brokers=1,
        small_disks=False,
        kind=None,
        first=1,
        minutes=MINUTES,
        keep=tmp_path,
    )
    seed = int(os.environ.get("FAULTS_SEED") or secrets.randbits(32))
    report = await play(options, Report(seed, options.brokers))
    assert report.ok, report.text()
    assert report.rounds >= 8, f"only {report.rounds} rounds in {MINUTES} minutes"
