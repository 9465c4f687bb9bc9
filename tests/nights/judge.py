"""Runs the commands as an operator would, and holds all that they say against the night's truth."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.corpus.world import World
from tests.nights.truth import Journal, Truth

FINE = {"returned", "closed", "in_flight"}


@dataclass(frozen=True, slots=True)
class Wrong:
    """A wrong finding: a class of them, with how many orders it is said of.

    Attributes:
        kind: blamed (a healthy hop), silent, cause, unknown, proven, counts, or failed.
        cause: what befell, in the grammar's words.
        said: by the command.
    """

    command: str
    kind: str
    cause: str
    said: str
    orders: int = 1

    def __str__(self) -> str:
        return f"{self.command}: {self.kind}: {self.cause}: said {self.said} ({self.orders} orders)"


async def judge(world: World, journal: Journal, folder: Path) -> tuple[int, list[Wrong]]:
    """Ask all commands; return how many orders were named right by diagnose, and what was wrong."""
    orders = list(journal.truth)
    # Where no watchdog runs any more this one records what is overdue.
    incidents = await _ask(world, "incidents", "--all")
    diagnosed, unreturned, reconciled, checked = await asyncio.gather(
        _ask(world, "diagnose", *orders),
        _ask(world, "unreturned"),
        _ask(world, "reconcile"),
        _ask(world, "check"),
    )
    (folder / "answers.json").write_text(
        json.dumps([one.data for one in (diagnosed, unreturned, reconciled, checked, incidents)])
    )
    wrong = [one for answer in (diagnosed, unreturned, reconciled, checked, incidents)
             for one in answer.failed]  # fmt: skip
    each = _of_orders("diagnose", journal, diagnosed.data.get("orders", []))
    wrong += each
    wrong += _of_orders("unreturned", journal, unreturned.data.get("orders", []), listed=True)
    wrong += _of_incidents(journal, incidents.data)
    wrong += _of_reconcile(journal, reconciled.data)
    wrong += _of_check(journal, checked.data)
    bad = sum(one.orders for one in each)
    return len(orders) - bad, wrong


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said, or that it failed."""

    data: dict[str, Any]
    failed: list[Wrong]


async def _ask(world: World, command: str, *arguments: str) -> Answer:
    done = await asyncio.to_thread(world.command, command, "--json", *arguments)
    if done.returncode not in (0, 3):
        said = f"exit {done.returncode}: {done.stderr[-300:]}"
        return Answer({}, [Wrong(command, "failed", "-", said)])
    return Answer(json.loads(done.stdout), [])


def _of_orders(
    command: str, journal: Journal, answers: Iterable[dict[str, Any]], *, listed: bool = False
) -> list[Wrong]:
    """Judge what is said of each order; `listed`: those that came back are not in the list."""
    said = {one["order_id"]: (one["hop"], one["verdict"], one["cause"]) for one in answers}
    found: Counter[tuple[str, str, str]] = Counter()
    for order, truth in journal.truth.items():
        if order in said:
            what = _kind(truth, *said[order], recorded=listed)
        else:
            # An order that has no row is in no list.
            what = "" if listed and (truth.healthy or _rowless(truth)) else "silent"
        if what:
            found[what, truth.cause, _written(said.get(order))] += 1
    return [Wrong(command, *key, count) for key, count in found.items()]


def _rowless(truth: Truth) -> bool:
    return any(verdict == "no_such_order" for verdict, _cause in truth.said)


def _kind(
    truth: Truth, hop: str | None, verdict: str, cause: str | None, *, recorded: bool = False
) -> str:
    """Return what is wrong with a finding; "" where it is right, or was when it was recorded."""
    if recorded and any(verdict == one and why == cause for one, why in truth.before):
        return ""
    if truth.fits(verdict, cause) and (truth.healthy or hop == truth.hop):
        return ""
    if verdict == "unknown":
        return "unknown"
    if verdict in FINE:
        return "silent"
    return "blamed" if hop != truth.hop else "cause"


def _written(said: tuple[str | None, str, str | None] | None) -> str:
    return "nothing" if said is None else f"{said[0] or '-'} {said[1]} / {said[2] or '-'}"


def _of_incidents(journal: Journal, data: dict[str, Any]) -> list[Wrong]:
    """Judge what incidents are of, and that no lost order is missing from them."""
    if not data:
        return []
    truths = set(journal.truth.values())
    wrong = []
    for one in data["incidents"]:
        late = set(one["breakdown"]) <= {"late", "returned"}
        said = one["hop"], one["verdict"], one["cause"]
        fits = any(not _kind(truth, *said, recorded=True) for truth in truths)
        if not (late or fits or one["closed_at"]):
            kind = "unknown" if one["verdict"] == "unknown" else "blamed"
            if one["hop"] in {it.hop for it in truths}:
                kind = "cause" if kind == "blamed" else kind
            wrong.append(Wrong("incidents", kind, _all(truths), _written(said), one["orders"]))
    open_orders = sum(
        count
        for one in data["incidents"]
        for what, count in one["breakdown"].items()
        if what not in ("late", "returned", "closed")
    )
    expected = sum(not (it.healthy or _rowless(it)) for it in journal.truth.values())
    told = open_orders + data["single_orders"]
    if told < expected:
        wrong.append(Wrong("incidents", "counts", _all(truths), f"{told} of {expected} orders"))
    return wrong


def _of_reconcile(journal: Journal, data: dict[str, Any]) -> list[Wrong]:
    """PROVEN over a loss is the worst that can be said."""
    bad = {it for it in journal.truth.values() if it.unproven}
    if data.get("proven") and bad:
        return [Wrong("reconcile", "proven", _all(bad), "PROVEN")]
    return []


def _of_check(journal: Journal, data: dict[str, Any]) -> list[Wrong]:
    """What stands wrong in the configuration is found by `check`."""
    # A transaction of some seconds is shown, and does not alarm anybody yet.
    names = [one["name"] for one in data.get("checks", [])]
    return [
        Wrong("check", "silent", truth.cause, f"nothing of {truth.check}")
        for truth in set(journal.truth.values())
        if data and truth.check and not any(name.startswith(truth.check) for name in names)
    ]


def _all(truths: Iterable[Truth]) -> str:
    return " + ".join(sorted({it.cause for it in truths if not it.healthy})) or "nothing"
