"""The closed list of verdicts, and the hop that each one blames.

Invariant: a verdict names the first hop that is missing, or none where nothing is; no other module
spells a verdict or a hop by hand. Nothing here can fail: these are constants.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Hop(StrEnum):
    """The five steps between an order's commit and its returned status, in order."""

    PLACE = "place"
    PUBLISH = "publish"
    PROCESS = "process"
    RETURN = "return"
    CONFIRM = "confirm"

    @property
    def number(self) -> int:
        """Its place in the chain, from 1."""
        return HOPS.index(self) + 1


HOPS: tuple[Hop, ...] = tuple(Hop)


class Verdict(StrEnum):
    """What a diagnosis says of one order."""

    RETURNED = "returned"
    IN_FLIGHT = "in_flight"
    CLOSED = "closed"
    NO_SUCH_ORDER = "no_such_order"
    NO_OUTBOX_ROW = "no_outbox_row"
    NOT_PUBLISHED = "not_published"
    PARKED = "parked"
    RECORD_MISSING = "record_missing"
    NOT_PROCESSED = "not_processed"
    NO_RETURN = "no_return"
    RETURN_INCOMPLETE = "return_incomplete"
    NOT_CONFIRMED = "not_confirmed"
    RETURN_QUARANTINED = "return_quarantined"
    RETURN_SKIPPED = "return_skipped"
    UNKNOWN = "unknown"


class Fate(StrEnum):
    """What a verdict means for the customer who waits."""

    FINE = "fine"  # nothing to do
    DELAYED = "delayed"  # flows on by itself once its hop moves again
    LOST = "lost"  # will not move by itself
    UNKNOWN = "unknown"  # evidence is missing


@dataclass(frozen=True, slots=True)
class VerdictMeaning:
    """One row of the list: `hop` is None where the verdict fits any hop, or none."""

    hop: Hop | None
    fate: Fate
    meaning: str


MEANINGS: Mapping[Verdict, VerdictMeaning] = MappingProxyType(
    {
        Verdict.RETURNED: VerdictMeaning(
            None, Fate.FINE, "a terminal return was applied, in time or late"
        ),
        Verdict.IN_FLIGHT: VerdictMeaning(None, Fate.FINE, "before its deadline, moving"),
        Verdict.CLOSED: VerdictMeaning(None, Fate.FINE, "closed by hand"),
        Verdict.NO_SUCH_ORDER: VerdictMeaning(
            Hop.PLACE, Fate.LOST, "no such order was ever committed, or it is known otherwise"
        ),
        Verdict.NO_OUTBOX_ROW: VerdictMeaning(
            Hop.PLACE, Fate.LOST, "the order was committed without its event"
        ),
        Verdict.NOT_PUBLISHED: VerdictMeaning(
            Hop.PUBLISH, Fate.DELAYED, "the row is committed, and the relay has not published it"
        ),
        Verdict.PARKED: VerdictMeaning(
            Hop.PUBLISH, Fate.LOST, "the event cannot be sent and waits in quarantine"
        ),
        Verdict.RECORD_MISSING: VerdictMeaning(
            Hop.PUBLISH, Fate.LOST, "it was published, and its record is no longer there"
        ),
        Verdict.NOT_PROCESSED: VerdictMeaning(
            Hop.PROCESS, Fate.DELAYED, "it was published, and the processor has not passed it"
        ),
        Verdict.NO_RETURN: VerdictMeaning(
            Hop.RETURN, Fate.LOST, "the processor passed it, and no return was ever sent"
        ),
        Verdict.RETURN_INCOMPLETE: VerdictMeaning(
            Hop.RETURN, Fate.LOST, "only returns that end nothing came"
        ),
        Verdict.NOT_CONFIRMED: VerdictMeaning(
            Hop.CONFIRM, Fate.DELAYED, "its return is on Kafka and is not applied yet"
        ),
        Verdict.RETURN_QUARANTINED: VerdictMeaning(
            Hop.CONFIRM, Fate.LOST, "its return came and was refused"
        ),
        Verdict.RETURN_SKIPPED: VerdictMeaning(
            Hop.CONFIRM, Fate.LOST, "the consumer is past its return, which was never applied"
        ),
        Verdict.UNKNOWN: VerdictMeaning(
            None, Fate.UNKNOWN, "the evidence that would decide cannot be had"
        ),
    }
)


def found_something(verdict: Verdict) -> bool:
    """Tell whether an operator has to look at it (exit code 3)."""
    return MEANINGS[verdict].fate is not Fate.FINE


def page(code: str) -> str:
    """Name of the verdict's page of documentation."""
    known = Verdict(code) if code in MEANINGS else Verdict.UNKNOWN
    return f"docs/verdicts/{known.value}.md"
