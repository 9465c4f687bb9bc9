"""Many diagnoses on one screen: a block for each cause, largest first, nobody left out."""

from datetime import UTC, datetime

from relay.cli.diagnosis_text import BLOCKS, KINDS, causes, many_orders
from relay.diagnose.causes import MEANINGS, Cause
from relay.diagnose.report.diagnosis import Diagnosis
from relay.diagnose.verdicts import Hop, Verdict

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def diagnosis(order: str, cause: Cause, verdict: Verdict, hop: Hop | None = None) -> Diagnosis:
    row = MEANINGS[cause]
    next_ = (f"relay replay --order {order}",)
    return Diagnosis(order, verdict, cause, hop, (), next_, row.meaning, row.fix)


def lost(cause: Cause, count: int) -> list[Diagnosis]:
    return [
        diagnosis(f"{cause.value}-{n}", cause, Verdict.NO_RETURN, Hop.RETURN) for n in range(count)
    ]


def test_the_largest_comes_first_and_each_has_what_to_do() -> None:
    found = lost(Cause.RETURN_NEVER_SENT, 1) + lost(Cause.OFFSETS_SKIPPED, 7)
    lines = [line.strip() for line in causes(found, NOW)]
    assert "8 orders: 8 lost, 0 delayed, 0 unknown" in lines[0]
    heads = [number for number, line in enumerate(lines) if " / " in line]
    assert [lines[number].split()[0] for number in heads] == ["7", "1"]
    for number, cause in zip(heads, (Cause.OFFSETS_SKIPPED, Cause.RETURN_NEVER_SENT), strict=True):
        assert lines[number + 1] == f"why   {MEANINGS[cause].meaning}"
        assert lines[number + 2] == f"fix   {MEANINGS[cause].fix}"
        assert lines[number + 4] == f"next  relay replay --order {cause.value}-0"


def test_however_many_causes_there_are_the_counts_add_up() -> None:
    some = list(Cause)[: KINDS + 3]
    found = [one for cause in some for one in lost(cause, 2)]
    lines = causes(found, NOW)
    assert sum(line.strip().startswith("why") for line in lines) == BLOCKS
    counts = [line.split()[0] for line in lines[1:] if line[:8].strip().isdigit()]
    assert sum(map(int, counts)) == len(found)


def test_every_order_that_was_asked_for_gets_an_answer() -> None:
    fine = [diagnosis("fine", Cause.IN_TIME, Verdict.RETURNED)]
    found = fine + lost(Cause.RETURN_NEVER_SENT, 40)
    text = "\n".join(many_orders(found, NOW))
    assert all(f" {one.order_id}  " in text for one in found)
