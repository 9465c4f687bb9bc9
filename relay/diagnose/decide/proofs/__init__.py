"""All hops: what proves each accusation, and what would contradict it: data beside the causes.

Invariant: total over the pairs of verdict and cause that accuse somebody. The decision does not ask
here: tests feed it every combination of evidence and hold each finding against this list, and
docs/verdicts/proofs.md is written from it.
"""

from collections.abc import Mapping
from types import MappingProxyType

from relay.diagnose.causes import MEANINGS, Cause
from relay.diagnose.decide.proofs.external import EXTERNAL
from relay.diagnose.decide.proofs.fact import Fact, Proof
from relay.diagnose.decide.proofs.late_hops import CONFIRM, PROCESS, RETURN
from relay.diagnose.decide.proofs.place import PLACE
from relay.diagnose.decide.proofs.publish import PUBLISH
from relay.diagnose.verdicts import Verdict

__all__ = ["PROOFS", "Fact", "Proof", "accusing", "page"]

_ACCUSES_NOBODY = frozenset({Verdict.RETURNED, Verdict.IN_FLIGHT, Verdict.CLOSED, Verdict.UNKNOWN})

PROOFS: Mapping[tuple[Verdict, Cause], Proof] = MappingProxyType(
    PLACE | PUBLISH | EXTERNAL | PROCESS | RETURN | CONFIRM
)


def accusing() -> list[tuple[Verdict, Cause]]:
    """Return every pair that accuses somebody, by hop, in the order of the causes."""
    return [
        (verdict, cause)
        for verdict in Verdict
        if verdict not in _ACCUSES_NOBODY
        for cause in Cause
        if verdict in MEANINGS[cause].verdicts
    ]


_HEAD = """# What proves a cause

Nobody is accused because nothing else is known: each cause needs a proof of its own, and is not
said where the evidence holds its contradiction. Tests feed the decision every combination of
evidence and hold what it says against this list (`tests/unit/diagnose/test_proofs.py`), which
stands in the code beside it (`relay/diagnose/decide/proofs/`). Where a proof cannot be had, the
verdict is [`unknown`](unknown.md).

| verdict | cause | is said only where | and never where |
| --- | --- | --- | --- |
"""


def page() -> str:
    """Return docs/verdicts/proofs.md."""
    rows = []
    for verdict, cause in accusing():
        proof = PROOFS[verdict, cause]
        seen, never = (
            "; ".join(one.text for one in facts) or "-" for facts in (proof.seen, proof.never)
        )
        rows.append(f"| [`{verdict}`]({verdict}.md) | `{cause}` | {seen} | {never} |\n")
    return _HEAD + "".join(rows)
