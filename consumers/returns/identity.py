"""Hop 5: which returns are copies of one another.

Invariant: pure. A copy (same identity, same content) is handled once; what only looks like a copy
(same identity, other content) is handled under another identity, and never dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from relay.consumers.returns.reader import Return


@dataclass(slots=True)
class Sorted:
    """A batch, told apart.

    Attributes:
        fresh: (identity, return) of those to handle, in the order they came.
        copies: those that were handled before, here or in an earlier batch.
    """

    fresh: list[tuple[str, Return]] = field(default_factory=list)
    copies: list[Return] = field(default_factory=list)


def identities(returned: Return, topic_id: str | None) -> Iterator[str]:
    """Yield the identities a return may go by, best first.

    The position alone is no identity for ever: a topic that is made anew has the same positions.
    With its id, and the content for brokers without ids, the last one is always free or a copy.
    """
    if returned.own_identity is not None:
        yield returned.own_identity
    yield returned.position
    yield f"{returned.position}@{topic_id or '-'}#{returned.content.hex()}"


def sort_copies(
    returns: Sequence[Return], known: Mapping[str, bytes], topic_id: str | None
) -> Sorted:
    """Tell copies from new returns.

    Args:
        returns: a batch, in the order they came.
        known: content hashes of the identities in the inbox, for every identity of these returns.
        topic_id: Kafka's id of the topic they are from.
    """
    seen, result = dict(known), Sorted()
    for returned in returns:
        for identity in identities(returned, topic_id):
            content = seen.get(identity)
            if content is None:
                seen[identity] = returned.content
                result.fresh.append((identity, returned))
                break
            if content == returned.content:
                result.copies.append(returned)
                break
    return result


def contested(returns: Sequence[Return], known: Mapping[str, bytes]) -> list[Return]:
    """Return those whose first identity is taken by other content: the others must be looked up."""
    first: dict[str, bytes] = dict(known)
    found = []
    for returned in returns:
        identity = returned.own_identity or returned.position
        if first.setdefault(identity, returned.content) != returned.content:
            found.append(returned)
    return found
