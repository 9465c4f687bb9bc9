"""What a witness says of a publisher that is away."""

from typing import Any

import pytest

from relay.diagnose.causes import Cause
from relay.diagnose.decide.duty import cause_of_code
from relay.runtime.outage import OutageLog
from relay.runtime.process import ProcessRecord
from relay.witness.observer import (
    Observer,
    PublisherNames,
    connector_complaint,
    slot_complaint,
)

FAILED = {"state": "RUNNING", "tasks": [{"id": 0, "state": "FAILED", "trace": "no publication"}]}


@pytest.mark.parametrize(
    ("state", "cause", "text"),
    [
        ({"state": "PAUSED", "tasks": []}, Cause.CONNECTOR_PAUSED, "the connector is PAUSED"),
        ({"state": "STOPPED", "tasks": []}, Cause.CONNECTOR_PAUSED, "the connector is STOPPED"),
        ({"state": "ABSENT", "tasks": []}, Cause.CONNECTOR_MISSING, "the connector is ABSENT"),
        ({"state": "FAILED", "tasks": []}, Cause.CONNECTOR_FAILED, "the connector is FAILED"),
        (FAILED, Cause.CONNECT_TASK_FAILED, "task 0 of the connector failed: no publication"),
    ],
)
def test_a_connector_that_is_away(state: dict[str, Any], cause: Cause, text: str) -> None:
    found = connector_complaint(state)
    assert found is not None
    assert (cause_of_code(f"publisher:{found.cause}"), found.text) == (cause, text)


@pytest.mark.parametrize("state", [{}, {"unreachable": "timed out"}, {"state": "RUNNING"}])
def test_one_that_is_not_or_did_not_answer(state: dict[str, Any]) -> None:
    assert connector_complaint(state) is None


@pytest.mark.parametrize(
    ("slot", "cause"),
    [
        (None, Cause.SLOT_MISSING),
        ((False, None), Cause.SLOT_INACTIVE),
        ((False, "wal_removed"), Cause.SLOT_LOST),
    ],
)
def test_a_slot_that_is_away(slot: tuple[bool, str | None] | None, cause: Cause) -> None:
    found = slot_complaint("s", slot)
    assert found is not None
    assert cause_of_code(f"publisher:{found.cause}") == cause
    assert slot_complaint("s", (True, None)) is None


def test_what_is_wrong_now_is_another_outage_than_what_was() -> None:
    outages = OutageLog(ProcessRecord("witness"))
    observer = Observer(None, PublisherNames("s"), "g", outages)
    observer._note(slot_complaint("s", (False, None)))
    observer._note(slot_complaint("s", (False, None)))
    observer._note(connector_complaint({"state": "PAUSED", "tasks": []}))
    observer._note(None)
    assert [(one.error, one.ended is not None) for one in outages._outages] == [
        ("nobody reads slot s", True),
        ("the connector is PAUSED", True),
    ]


def test_a_code_of_a_newer_version_names_nothing() -> None:
    assert cause_of_code("publisher:abducted") is None
