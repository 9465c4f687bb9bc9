"""What becomes of an order by itself: the verdict says it, and certain causes say otherwise."""

from datetime import UTC, datetime

import pytest

from relay.diagnose.causes import MEANINGS, Cause
from relay.diagnose.fate import NEVER_BY_ITSELF, fate_of
from relay.diagnose.incidents.listing import _breakdown
from relay.diagnose.report.diagnosis import Diagnosis
from relay.diagnose.report.explain import headline
from relay.diagnose.unreturned import Unreturned
from relay.diagnose.verdicts import Fate, Hop, Verdict

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "cause", [Cause.CHECKPOINT_SKIPPED, Cause.SENT_TO_OTHER_TOPIC, Cause.PUBLISHER_SKIPPED]
)
def test_what_the_relay_went_past_is_lost_wherever_it_is_shown(cause: Cause) -> None:
    verdict = Verdict.NOT_PUBLISHED
    found = Diagnosis("o", verdict, cause, Hop.PUBLISH, (), (), "", "")
    assert found.fate is Fate.LOST
    assert headline(found) == f"LOST at 2 publish: not_published / {cause}"
    assert Unreturned("o", NOW, "publish", verdict.value, cause.value).fate is Fate.LOST
    parts = [
        {"closed_as": None, "verdict": verdict.value, "cause": one.value, "orders": count}
        for one, count in ((cause, 2), (Cause.RELAY_DOWN, 3))
    ]
    assert _breakdown(parts) == {"lost": 2, "delayed": 3}  # type: ignore[arg-type]


def test_every_other_cause_leaves_a_verdict_its_fate() -> None:
    for cause, meaning in MEANINGS.items():
        for verdict in meaning.verdicts:
            fate = fate_of(verdict, cause)
            assert (fate is fate_of(verdict, None)) is (cause not in NEVER_BY_ITSELF), cause


def test_a_verdict_of_another_version_is_not_judged() -> None:
    assert fate_of("frozen_in_time", "checkpoint_skipped") is Fate.UNKNOWN
    assert fate_of("not_published", "some_new_cause") is Fate.DELAYED
    assert Unreturned("o", NOW).fate is Fate.UNKNOWN
