"""A loop for each night; the report at the end of the run."""

from typing import Any

from tests.corpus.conftest import world
from tests.nights.report import PROPERTY, Result, report

__all__ = ["world"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many nights were right, and what was said wrong, with the seeds."""
    tests = [one for kind in ("passed", "failed") for one in terminalreporter.stats.get(kind, [])]
    results = [
        Result.of_json(text)
        for test in tests
        for name, text in getattr(test, "user_properties", ())
        if name == PROPERTY and test.when == "call"
    ]
    if results:
        for line in report(results):
            terminalreporter.write_line(line)
