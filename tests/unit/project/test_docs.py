"""The documentation names nothing that does not exist: files, links, commands, targets, modules."""

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from relay.cli import GROUPS

ROOT = Path(__file__).parents[3]
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT, check=True, capture_output=True, text=True,
).stdout.split()  # fmt: skip
PATHS = {f"/{path}" for path in TRACKED if (ROOT / path).exists()}
PATHS |= {f"{parent}" for path in PATHS for parent in Path(path).parents}
PAGES = sorted(path for path in TRACKED if path.endswith(".md") and (ROOT / path).exists())
# History, and what is made where it is run.
HISTORY = {"CHANGELOG.md"}
MADE = {"relay.toml", "uv.lock", "pylock.toml", "./relay.toml", ".build/benchmarks.jsonl", "site/"}

_PATH = re.compile(
    r"(\.?[\w-]+/)*[\w.-]+\.(py|toml|sql|md|yaml|yml|json|sh|lock|txt)|(\.?[\w-]+/)+"
)
_TARGET = re.compile(r"^([a-z]+):", re.MULTILINE)


@pytest.fixture(params=[page for page in PAGES if page not in HISTORY])
def text(request: pytest.FixtureRequest) -> str:
    return (ROOT / request.param).read_text("utf-8")


def is_there(name: str) -> bool:
    """Tell whether a path, or the end of one, is in the checkout."""
    wanted = "/" + name.rstrip("/")
    return any(path.endswith(wanted) for path in PATHS)


def test_every_file_that_is_named_exists(text: str) -> None:
    named = {name for name in re.findall(r"`([^`\n]+)`", text) if _PATH.fullmatch(name)}
    assert [name for name in sorted(named - MADE) if not is_there(name)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page: str) -> None:
    links = re.findall(r"\]\(([^)\s:#]+)(?:#[^)\s]*)?\)", (ROOT / page).read_text("utf-8"))
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_command_exists(text: str) -> None:
    known = {name for group in GROUPS.values() for name in group}
    in_code = re.findall(r"`[^`\n]+`|^(?:    |\$ ).+$", text, re.MULTILINE)
    named = {name for code in in_code for name in re.findall(r"(?<!')\brelay ([a-z]+)\b", code)}
    assert named <= known


def test_every_target_and_module_exists(text: str) -> None:
    targets = set(_TARGET.findall((ROOT / "Makefile").read_text("utf-8")))
    named = set(re.findall(r"(?:`|^    |^)make ([a-z]+)\b", text, re.MULTILINE))
    assert {name for name in named if name != "bench"} <= targets
    for module in re.findall(r"python -m ([a-z_.]+[a-z_])", text):
        assert find_spec(module) is not None, module
