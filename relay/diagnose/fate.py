"""What a verdict with its cause means for the customer who waits.

Invariant: one function answers for every command, for a diagnosis of this moment and for one that
was stored; a verdict that this version does not know is not judged.
"""

from typing import Final

from relay.diagnose.causes import Cause
from relay.diagnose.verdicts import MEANINGS, Fate, Verdict

# A verdict that usually flows on by itself, with a cause for which it never will: whoever should
# take it is past it, and no restart brings it back to it.
NEVER_BY_ITSELF: Final = frozenset(
    {
        Cause.CHECKPOINT_SKIPPED,
        Cause.PUBLISHER_SKIPPED,
        Cause.SLOT_LOST,
        Cause.SENT_TO_OTHER_TOPIC,
        Cause.GROUP_REPLACED,
    }
)


def fate_of(verdict: str, cause: str | None) -> Fate:
    """Return what becomes of an order if nobody does anything.

    Args:
        verdict: a verdict's code, stored perhaps by another version.
        cause: its cause's code; None where none is known.
    """
    if verdict not in MEANINGS:
        return Fate.UNKNOWN
    usual = MEANINGS[Verdict(verdict)].fate
    return Fate.LOST if usual is Fate.DELAYED and cause in NEVER_BY_ITSELF else usual
