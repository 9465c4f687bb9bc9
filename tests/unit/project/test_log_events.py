"""Every log line of ours is an event in snake case, and its data stands in fields."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def _calls(text: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            logger = ast.unparse(node.func.value).lower()
            if node.func.attr in LEVELS and "log" in logger.split("(")[0] and node.args:
                yield node


@pytest.mark.parametrize("folder", ["relay", "consumers"])
def test_events_are_snake_case(folder: str) -> None:
    found = 0
    for path in (ROOT / folder).rglob("*.py"):
        for call in _calls(path.read_text()):
            found += 1
            event = call.args[0]
            where = f"{path}:{call.lineno}: {ast.unparse(event)}"
            assert isinstance(event, ast.Constant), where
            assert re.fullmatch(r"[a-z][a-z0-9_]+", str(event.value)), where
            assert len(call.args) == 1, where
    assert found > 8
