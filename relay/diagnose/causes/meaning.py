"""What a cause means, and the commands that are advised.

Nothing here can fail.
"""

from dataclasses import dataclass

from relay.diagnose.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class CauseMeaning:
    """One row of the list.

    Attributes:
        verdicts: those that it can explain.
        meaning: one sentence.
        fix: what to do before the orders are helped; "" where nothing is to be done.
        next: commands, with `{order}` for the order's id; the first is the one to run now.
    """

    verdicts: frozenset[Verdict]
    meaning: str
    fix: str
    next: tuple[str, ...]


TRACE = "relay trace {order}"
STATUS = "relay status"
CHECK = "relay check"
REPLAY = "relay replay --order {order}"
QUARANTINE = "relay quarantine list --order {order}"
ALL_QUARANTINE = "relay quarantine list --order {order} --state all"
RELEASE = "relay quarantine release --order {order} --reason REASON"
DISCARD = "relay quarantine discard --order {order} --reason REASON"
RETURNS_AGAIN = "relay replay returns --order {order}"
WRITE_MISSING = "relay replay --order {order} --write-missing"
AGAIN = "relay diagnose {order}"
CLOSE = "relay close {order} --reason REASON"


def row(
    verdicts: Verdict | tuple[Verdict, ...], meaning: str, fix: str, *commands: str
) -> CauseMeaning:
    """Return what one cause means; the commands are those to type next."""
    named = verdicts if isinstance(verdicts, tuple) else (verdicts,)
    return CauseMeaning(frozenset(named), meaning, fix, commands)
