"""SECURITY.md says what holds, and names for each sentence the test that holds it to it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
CLAIM = re.compile(r"^\| (?P<sentence>[^|]+\.) \| `(?P<file>[^`:]+)::(?P<test>test_\w+)` \|$")


def test_every_sentence_names_a_test_that_exists() -> None:
    lines = (ROOT / "SECURITY.md").read_text("utf-8").splitlines()
    start = lines.index("| sentence | test |")
    rows = lines[start + 2 : lines.index("", start)]
    assert len(rows) > 20
    for row in rows:
        claim = CLAIM.fullmatch(row)
        assert claim is not None, row
        tree = ast.parse((ROOT / "tests" / claim["file"]).read_text("utf-8"))
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        tests = {one.name for one in ast.walk(tree) if isinstance(one, functions)}
        assert claim["test"] in tests, row
