"""Repair: what `relay quarantine` prints for people.

Invariant: pure; whatever others wrote goes through `printable`, and stands behind a bar of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from relay.cli.output import typed
from relay.repair.gone import Gone
from relay.repair.held import Content, Group, Held
from relay.repair.resolving import Outcome, Resolved
from relay.runtime.printable import printable, printable_bytes

_DETAIL_CHARACTERS = 100
_SHOWN_HEADERS = 40
_HEADER_BYTES = 200
_BAR = "  | "

_OUTCOMES = {
    "sent": "sent, with proof in the delivery ledger",
    "decided": "decided anew",
    "held_again": "held again: the cause is not fixed",
    "behind_held": "wait behind an earlier event of their order, which is held still",
    "waiting": "still waiting",
    "discarded": "discarded by somebody else meanwhile",
}


def held_as_data(held: Held) -> dict[str, Any]:
    """Return a row for a script."""
    return asdict(held)


def list_lines(groups: Sequence[Group], rows: Sequence[Held]) -> list[str]:
    """Return the counts by reason, then the rows."""
    total = sum(group.count for group in groups)
    if not total:
        return ["quarantine: nothing"]
    lines = [f"quarantine: {total:,}"]
    lines += [
        f"  {one.count:>9,}  {one.kind} {printable(one.reason)}  {one.state}, "
        f"oldest {_time(one.oldest_at)}"
        for one in groups
    ]
    if rows:
        lines += ["", f"{'ID':>8}  STATE     ORDER  REASON  WHERE FROM"]
    for row in rows:
        lines += _row_lines(row)
    if len(rows) < total:
        lines.append(
            typed(f"... {total - len(rows):,} more: --limit, or `relay quarantine export`")
        )
    return lines


def _row_lines(row: Held) -> list[str]:
    order = _short(row.order_id) if row.order_id else "(no order)"
    state = {"release_requested": "releasing"}.get(row.state, row.state)
    gone = "  (its bytes are gone)" if row.lies_in is None else ""
    first = (
        f"{row.quarantine_id:>8}  {state:<9} {order}  {printable(row.reason)}"
        f"  {printable(row.where_from)}{gone}"
    )
    seen = f"{_time(row.first_seen_at)}"
    if row.seen_count > 1:
        seen += f", {row.seen_count:,} times, last {_time(row.last_seen_at)}"
    return [first, f"{'':>10}{seen}  {_short(row.detail or '')}".rstrip()]


def gone_lines(gone: Sequence[Gone]) -> list[str]:
    """Return which events can no longer be replayed."""
    lines = ["", "no longer to be replayed (past retention):"] if gone else []
    for one in gone:
        ids = "" if one.first_id is None else f", outbox ids {one.first_id}-{one.last_id}"
        kept = f"; {one.kept:,} of stuck orders were kept" if one.kept else ""
        what = "kept rows of stuck orders" if one.from_kept else "rows"
        lines.append(
            f"  {one.rows:>9,}  {what} of {one.from_at:%Y-%m-%d} to {one.to_at:%Y-%m-%d}{ids}{kept}"
        )
    return lines


def show_lines(row: Held) -> list[str]:
    """Return all that is known of a row but its bytes."""
    facts = {
        "order": row.order_id,
        "its type": row.aggregate_type,
        "event": row.event_id,
        "event type": row.event_type,
        "where from": row.where_from,
        "group": row.group,
        "topic": row.topic if row.kind == "event" else None,
        "trace": row.traceparent,
        "seen": f"{row.seen_count:,} times, first {_time(row.first_seen_at)}",
        "last": _time(row.last_seen_at),
        "resolved": None if row.resolved_at is None else _time(row.resolved_at),
        "by": row.resolved_by,
        "why": row.resolved_why,
    }
    head = f"{row.quarantine_id}: {row.kind}, {row.state}: {row.reason}"
    lines = [printable(head), f"  {printable(row.detail or '')}".rstrip()]
    return lines + [f"  {name:<10}  {printable(fact)}" for name, fact in facts.items() if fact]


def content_lines(row: Held, content: Content | None, *, permitted: bool) -> list[str]:
    """Return key, headers and value, each line behind a bar."""
    if not permitted:
        return ["  bytes       not for this login: they need the role relay_operator"]
    if content is None:
        return [typed("  bytes       gone: the row left with its retention (`relay status`)")]
    lines = []
    if content.key is not None:
        lines.append(f"  {'key':<10}  {_short_bytes(content.key)}")
    for name, value in content.headers[:_SHOWN_HEADERS]:
        shown = "(null)" if value is None else _short_bytes(value)
        lines.append(f"  {'header':<10}  {_short(name)}: {shown}")
    if len(content.headers) > _SHOWN_HEADERS:
        lines.append(f"  ... {len(content.headers) - _SHOWN_HEADERS} more headers")
    if content.value is None:
        return [*lines, "  value       (null)"]
    lines.append(f"  value       {row.value_bytes or 0:,} bytes")
    text = printable_bytes(content.value, cut=content.cut, lines=True)
    lines += [f"{_BAR}{line}" for line in text.split("\n")]
    if row.kept != "whole":
        lines.append(
            f"  ... {row.kept_bytes or 0:,} bytes of it are kept; SHA-256 of the whole {row.sha256}"
        )
    elif content.cut:
        more = (row.value_bytes or 0) - len(content.value)
        lines.append(typed(f"  ... {more:,} bytes more: --bytes, or `relay quarantine export`"))
    return lines


def released_lines(done: Resolved, outcome: Outcome, notes: Sequence[str]) -> list[str]:
    """Return what came of a release."""
    lines = [f"released {len(done.ids):,}"]
    lines += [f"  {outcome.counts[one]:>9,}  {text}" for one, text in _OUTCOMES.items()
              if outcome.counts.get(one)]  # fmt: skip
    lines += [f"  left alone: {count:,} {state}" for state, count in done.left.items()]
    return lines + [f"  note  {printable(note)}" for note in notes]


def _short(text: str) -> str:
    shown = printable(text[: _DETAIL_CHARACTERS + 1])
    return shown if len(text) <= _DETAIL_CHARACTERS else f"{shown[:_DETAIL_CHARACTERS]}..."


def _short_bytes(data: bytes) -> str:
    if len(data) <= _HEADER_BYTES:
        return printable_bytes(data)
    return f"{printable_bytes(data[:_HEADER_BYTES], cut=True)}... {len(data):,} bytes"


def _time(at: datetime) -> str:
    return at.astimezone().isoformat(sep=" ", timespec="seconds")
