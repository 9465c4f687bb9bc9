"""One module opens connections to PostgreSQL: only so do all have the same session settings."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
OPENERS = {"connect", "create_pool", "Connection", "Pool", "AsyncConnection", "ConnectionPool"}
DRIVERS = {"asyncpg", "psycopg", "psycopg_pool", "psycopg2"}
PLACE = ROOT / "relay/runtime/database.py"


def openings(path: Path) -> Iterator[str]:
    """Yield every use of a driver's name that opens a connection, imported or by attribute."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)) if (
                module in DRIVERS and name in OPENERS
            ):
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {module}.{name}"
            case ast.ImportFrom(module=module, names=names) if (
                module is not None and module.partition(".")[0] in DRIVERS
            ):
                for alias in names:
                    if alias.name in {"connect", "create_pool"}:
                        yield f"{path.relative_to(ROOT)}:{node.lineno}: {module}.{alias.name}"


def test_nobody_else_opens_a_connection() -> None:
    modules = [*(ROOT / "relay").rglob("*.py"), *(ROOT / "consumers").rglob("*.py")]
    found = [opening for path in modules if path != PLACE for opening in openings(path)]
    assert found == [], "use relay.runtime.database.connect"


def test_the_place_itself_is_seen() -> None:
    assert len(list(openings(PLACE))) == 2
