"""The bugs that `make mutants` plants can still be planted: each text stands once in its file."""

from pathlib import Path

import pytest

from tests.mutants.planted import PLANTED, Planted

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_a_planted_text_stands_once_in_its_file(planted: Planted) -> None:
    for change in planted.changes:
        assert (ROOT / change.path).read_text().count(change.old) == 1, change.path
    for named in planted.tests:
        assert (ROOT / named.partition("::")[0]).exists(), named
