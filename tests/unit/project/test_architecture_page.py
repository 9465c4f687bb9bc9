"""ARCHITECTURE.md leads to files that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
NAMED = set(re.findall(r"`([\w./]+(?:\.py|\.md|/))`", PAGE))
FILES = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("[a-z]*/**/*.*")}


def stands(named: str) -> bool:
    """Whether a file or folder is there, under its whole path or the end of one."""
    if named.endswith("/"):
        return (ROOT / named).is_dir() or any(f"/{named}" in file for file in FILES)
    return any(file == named or file.endswith(f"/{named}") for file in FILES)


def test_what_the_page_names_is_there() -> None:
    assert len(NAMED) > 80
    assert sorted(named for named in NAMED if not stands(named)) == []


def test_every_folder_of_the_relay_is_on_the_page() -> None:
    folders = {
        path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("relay/*/__init__.py")
    } - {"relay/consumers"}
    assert [one for one in sorted(folders) if f"`{one}/`" not in PAGE] == []


def test_a_row_takes_the_way_that_is_told() -> None:
    section = PAGE.split("## A row's way")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 12
    files = {(ROOT / "ARCHITECTURE.md").parent / file for file in FILES if file.endswith(".py")}
    for _, _hop, _what, functions, named, _ in rows:
        ends = re.findall(r"`([\w./]+\.py)`", named)
        code = "".join(
            path.read_text()
            for path in files
            if any(path.as_posix().endswith(f"/{end}") for end in ends)
        )
        for function in re.findall(r"`(?:\w+\.)?(\w+)`", functions):
            assert f"def {function}(" in code, function
    assert len(set(re.findall(r"`([\w./]+\.py)`", section))) < 56
