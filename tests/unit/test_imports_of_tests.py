"""What tests, benchmarks and tools import of the program is there: a move forgets none of them."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imports(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "relay":
            yield from ((str(node.module), name.name) for name in node.names)


def is_there(module: str, name: str) -> bool:
    try:
        if hasattr(importlib.import_module(module), name):
            return True
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True


def test_what_is_imported_is_there() -> None:
    wanted = {
        (module, name, path.relative_to(ROOT).as_posix())
        for folder in ("tests", "benchmarks", "tools")
        for path in (ROOT / folder).rglob("*.py")
        for module, name in imports(path)
    }
    assert len(wanted) > 1000
    assert sorted(one for one in wanted if not is_there(*one[:2])) == []
