"""What a decision comes to, before it is told in words.

Invariant: verdict, cause and hop fit each other by the closed lists; an unfit pair is never built.
"""

from dataclasses import dataclass

from relay.diagnose.causes import MEANINGS as CAUSES
from relay.diagnose.causes import Cause
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.verdicts import MEANINGS as VERDICTS
from relay.diagnose.verdicts import Hop, Verdict


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict with its cause; `at` is the hop where the verdict itself names none."""

    verdict: Verdict
    cause: Cause
    at: Hop | None = None
    missing: Missing | None = None

    def __post_init__(self) -> None:
        if self.verdict not in CAUSES[self.cause].verdicts:
            raise ValueError(f"{self.cause} does not explain {self.verdict}: see causes/")

    @property
    def hop(self) -> Hop | None:
        """The first hop that is missing."""
        return VERDICTS[self.verdict].hop or self.at


def unknown(missing: Missing, at: Hop | None = None) -> Finding:
    """Say that evidence is missing, and which."""
    return Finding(Verdict.UNKNOWN, missing.cause, at, missing)
