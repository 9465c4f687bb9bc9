"""`python -O` leaves assertions out: none of them does anything."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]
# What an assertion may call: none of these changes anything.
PURE = {"all", "any", "callable", "frozenset", "hasattr", "isinstance", "issubclass", "len", "set",
        "sorted", "endswith", "is_set", "isdisjoint", "startswith"}  # fmt: skip
WAITS = (ast.Await, ast.NamedExpr, ast.Yield, ast.YieldFrom)


def effects(source: str) -> list[int]:
    """Return the lines of assertions that call, wait for or assign something."""
    return [
        found.lineno
        for found in ast.walk(ast.parse(source))
        if isinstance(found, ast.Assert) and any(map(_effect, ast.walk(found.test)))
    ]


def _effect(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return isinstance(node, WAITS)
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
    return name not in PURE


def test_no_assertion_has_an_effect() -> None:
    files = [path for folder in ("relay", "consumers") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 200
    found = {str(path): lines for path in files if (lines := effects(path.read_text("utf-8")))}
    assert not found


def test_an_effect_would_be_noticed() -> None:
    assert effects("assert pages.popleft() is page") == [1]
    assert effects("async def f():\n    assert await done()") == [2]
    assert effects("assert (n := 1)") == [1]
    assert not effects("assert isinstance(n, int) and len(names) == 1")
