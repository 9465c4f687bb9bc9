"""The suite is tested: bugs are planted in a copy of the tree, and each must turn a test red.

`python -m tests.mutants [NAME...]`: prints a table; exit 0 only if every bug is caught. The same
tests run once on the copy as it is: a test that fails there catches nothing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relay.embedded import Cluster
from tests.mutants.planted import PLANTED, Change, Planted

ROOT = Path(__file__).parents[2]
_TESTS_FAILED = 1  # pytest's exit code; any other is no verdict
_SECONDS = 400


class NotPlantedError(Exception):
    """A change does not apply any more: the program has changed, so must the planted bug."""


@dataclass(frozen=True)
class Verdict:
    """What came of one bug."""

    name: str
    caught: bool
    by: str
    seconds: float


def copy_tree(into: Path) -> None:
    """Copy what git knows of, as it stands in the work tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, into / name, follow_symlinks=False)


def plant(tree: Path, changes: Iterable[Change]) -> dict[Path, str]:
    """Apply changes; return the files as they were.

    Raises:
        NotPlantedError: one does not apply exactly once.
    """
    before: dict[Path, str] = {}
    for change in changes:
        path = tree / change.path
        text = path.read_text("utf-8") if path.exists() else ""
        if text.count(change.old) != 1 or change.new == change.old:
            raise NotPlantedError(
                f"{change.path}: stands there {text.count(change.old)} times: {change.old!r}"
            )
        before.setdefault(path, text)
        path.write_text(text.replace(change.old, change.new), "utf-8")
        compile(path.read_text("utf-8"), str(path), "exec")
    return before


def run_tests(tree: Path, tests: Sequence[str], servers: Mapping[str, str]) -> tuple[int, str]:
    """Run tests in the copy; return pytest's exit code and the first test that failed."""
    environment = {**os.environ, **servers, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["--timeout=100", "--tb=no", "-p", "no:randomly", *tests]
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            check=False,
            capture_output=True,
            text=True,
            env=environment,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return -1, f"no end within {_SECONDS} s"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    words = failed[0].split(" ")[1] if failed else done.stdout[-300:].strip()
    return done.returncode, words.rpartition("/")[2]


def judge(tree: Path, bug: Planted, servers: Mapping[str, str]) -> Verdict:
    """Plant a bug, run its tests, and put everything back."""
    began = time.monotonic()
    before: dict[Path, str] = {}
    try:
        before = plant(tree, bug.changes)
        code, words = run_tests(tree, bug.tests, servers)
    finally:
        for path, text in before.items():
            path.write_text(text, "utf-8")
    return Verdict(bug.name, code == _TESTS_FAILED, words, time.monotonic() - began)


def chosen(names: Sequence[str]) -> list[Planted]:
    """Return the bugs whose name has one of these words; all without any."""
    return [bug for bug in PLANTED if not names or any(name in bug.name for name in names)]


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    bugs = chosen(sys.argv[1:])
    if not bugs:
        _say(f"no bug is called so; there are: {', '.join(bug.name for bug in PLANTED)}")
        return 2
    with tempfile.TemporaryDirectory() as folder, Cluster() as cluster:
        tree = Path(folder)
        copy_tree(tree)
        for bug in bugs:  # what cannot be planted is told before an hour of tests
            for path, text in plant(tree, bug.changes).items():
                path.write_text(text, "utf-8")
        servers = {
            "TEST_DATABASE_URL": cluster.database_url,
            "TEST_KAFKA_BOOTSTRAP_SERVERS": cluster.kafka_bootstrap_servers,
        }
        code, words = run_tests(tree, sorted({test for bug in bugs for test in bug.tests}), servers)
        _say(f"without a bug: {'green' if code == 0 else f'RED, so nothing is proven: {words}'}")
        if code != 0:
            return 1
        verdicts = []
        for bug in bugs:
            verdict = judge(tree, bug, servers)
            verdicts.append(verdict)
            word = "caught" if verdict.caught else "MISSED"
            _say(f"{word}  {verdict.name:<75} {verdict.seconds:>4.0f} s  {verdict.by}")
    missed = sum(not one.caught for one in verdicts)
    _say(f"{len(verdicts) - missed} of {len(verdicts)} planted bugs caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
