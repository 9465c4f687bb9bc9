"""Each accusation has a proof of its own in the evidence, and nothing there contradicts it."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from relay.diagnose.causes import Cause
from relay.diagnose.decide.decision import decide
from relay.diagnose.decide.finding import Finding
from relay.diagnose.decide.proofs import PROOFS, accusing, page
from relay.diagnose.evidence.order import Evidence
from relay.diagnose.evidence.system_state import Missing, SystemState
from tests.unit.diagnose.test_diagnose_decide import TABLE

UNREAD = Missing("a part", Cause.TIMED_OUT, "no answer in time", "again")
ROOT = Path(__file__).parents[3]


def flaws(case: Evidence, finding: Finding) -> list[str]:
    """Return what is wrong with the proof of a finding; what accuses nobody needs none."""
    proof = PROOFS.get((finding.verdict, finding.cause))
    return [] if proof is None else proof.flaws(case)


def combined() -> Iterator[Evidence]:
    """Yield every case of the table, with each part in turn as every other case has it."""
    parts: dict[tuple[type, str], list[Any]] = {}
    for case in TABLE.values():
        for whole in (case, case.around):
            for field in fields(whole):
                value = getattr(whole, field.name)
                unread = [UNREAD] if "Missing" in str(field.type) else []
                known = parts.setdefault((type(whole), field.name), unread)
                if field.name not in ("around", "order_id") and value not in known:
                    known.append(value)
    for case in TABLE.values():
        for (whole, name), values in parts.items():
            for value in values:
                if whole is SystemState:
                    yield replace(case, around=replace(case.around, **{name: value}))
                else:
                    yield replace(case, **{name: value})


def test_every_accusation_has_a_proof_written_down() -> None:
    assert set(PROOFS) == set(accusing())
    assert list(PROOFS.values()) == [one for one in PROOFS.values() if one.seen]


def test_what_is_said_of_any_combination_of_evidence_is_proven_there() -> None:
    wrong: dict[tuple[str, str, str], str] = {}
    for case in combined():
        finding = decide(case)
        for flaw in flaws(case, finding):
            wrong.setdefault((finding.verdict, finding.cause, flaw), repr(case)[:2000])
    assert not wrong, "\n".join(map(str, wrong.items()))


def test_the_page_says_what_the_list_says() -> None:
    there = (ROOT / "docs" / "verdicts" / "proofs.md").read_text("utf-8")
    assert there == page(), "write it: python -m relay.diagnose.decide.proofs"
