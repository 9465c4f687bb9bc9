"""A module that says that it is pure stands in the contract which keeps it so."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DRIVERS = {"asyncpg", "aiokafka"}
# The whole of each of these is kept from the drivers by a contract of its own.
KEPT = ("relay.cli", "relay.embedded", "relay.outbox", "relay.telemetry", "relay.web")


def says_pure() -> Iterator[str]:
    """Yield the modules that say so and import no driver; a driver's errors may be judged, too."""
    for top in ("relay", "consumers"):
        for path in (ROOT / top).rglob("*.py"):
            tree = ast.parse(path.read_text("utf-8"))
            if not re.search(r"\bpure\b", ast.get_docstring(tree) or ""):
                continue
            imported = {
                name.split(".")[0]
                for node in ast.walk(tree)
                for name in (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
            }
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if not imported & DRIVERS:
                yield (
                    module.replace("consumers.", "relay.consumers.", 1)
                    if top != "relay"
                    else module
                )


def covered(module: str, packages: list[str]) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in packages)


def test_every_module_that_says_it_is_pure_is_kept_so() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (pure,) = (one for one in contracts if one["name"] == "Decisions are pure")
    found = [one.removesuffix(".__init__") for one in says_pure()]
    assert len(found) > 50
    packages = [*pure["source_modules"], *KEPT]
    assert [one for one in found if not covered(one, packages)] == []
