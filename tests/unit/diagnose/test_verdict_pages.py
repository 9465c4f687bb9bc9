"""One page for each verdict, with every cause in the words that the program uses."""

from pathlib import Path

import pytest

from relay.diagnose import causes
from relay.diagnose.causes import Cause, causes_of
from relay.diagnose.verdicts import MEANINGS, Verdict, page

ROOT = Path(__file__).parents[3]
SECTIONS = ("## Symptom", "## Causes", "## How to confirm", "## Fix")


@pytest.mark.parametrize("verdict", Verdict)
def test_a_page_has_all_that_an_operator_asks(verdict: Verdict) -> None:
    text = (ROOT / page(verdict)).read_text("utf-8")
    assert text.startswith(f"# {verdict.value}\n")
    places = [text.index(section) for section in SECTIONS]
    assert places == sorted(places)
    for cause in causes_of(verdict):
        row = causes.MEANINGS[cause]
        assert f"| `{cause.value}` | {row.meaning} | {row.fix or '-'} |" in text


def test_there_is_no_page_too_many() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "verdicts").glob("*.md")}
    assert pages == {"README", "proofs", *(verdict.value for verdict in Verdict)}
    index = (ROOT / "docs/verdicts/README.md").read_text("utf-8")
    assert all(f"[{verdict.value}]({verdict.value}.md)" in index for verdict in Verdict)


def test_every_verdict_has_a_cause_and_every_cause_a_verdict_and_a_sentence() -> None:
    assert set(causes.MEANINGS) == set(Cause)
    assert all(causes_of(verdict) for verdict in Verdict)
    for cause, row in causes.MEANINGS.items():
        assert row.verdicts, cause
        assert row.next, cause
        assert row.meaning[0].islower(), cause
        assert not row.meaning.endswith("."), cause


def test_hops_are_named_where_a_verdict_blames_one() -> None:
    free = {verdict for verdict, row in MEANINGS.items() if row.hop is None}
    expected = {Verdict.RETURNED, Verdict.IN_FLIGHT, Verdict.CLOSED, Verdict.UNKNOWN}
    assert free == expected


def test_what_helps_one_order_helps_a_whole_incident() -> None:
    command = causes.MEANINGS[Cause.RETURN_NEVER_SENT].next[0]
    named = causes.for_incident(command, Cause.RETURN_NEVER_SENT, "I-17")
    assert named == "relay replay --incident I-17"
    release = causes.MEANINGS[Cause.TOO_LARGE].next[1]
    named = causes.for_incident(release, Cause.TOO_LARGE, "I-17")
    assert named == "relay quarantine release --held-for too_large --reason REASON"
    missing = causes.MEANINGS[Cause.OUTBOX_BYPASSED].next[0]
    named = causes.for_incident(missing, Cause.OUTBOX_BYPASSED, "I-17")
    assert named == "relay replay --incident I-17 --write-missing"
