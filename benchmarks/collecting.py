"""Starts the collector that keeps nothing (benchmarks/tracing/collector.py)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def collecting() -> Iterator[str]:
    """Give the address of a light collector."""
    program = Path(__file__).parent / "tracing/collector.py"
    process = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()
