"""One story per order: what the commands say of the same orders, held against each other.

`told` runs them as an operator would; `contradictions` is pure. Nothing here knows what befell.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from relay.diagnose.causes import PROVISIONAL
from relay.diagnose.fate import fate_of
from relay.diagnose.verdicts import Fate

Answers = dict[str, dict[str, Any]]
Kind = tuple[str | None, str, str]

COMMANDS = ("unreturned", "incidents", "status", "reconcile", "check", "replay")
_ANSWERED = (0, 3)


async def told(wiring: Any, orders: Sequence[str], **env: str) -> Answers:
    """Ask every command in JSON; one that cannot answer (a server is away) is left out."""
    asked = {"diagnose": tuple(orders)} | dict.fromkeys(COMMANDS, ())
    done = await asyncio.gather(
        *(asyncio.to_thread(wiring.command, name, "--json", *more, **env)
          for name, more in asked.items())
    )  # fmt: skip
    return {
        name: json.loads(one.stdout)
        for name, one in zip(asked, done, strict=True)
        if one.returncode in _ANSWERED and one.stdout
    }


def contradictions(answers: Answers, asked: Sequence[str]) -> list[str]:
    """Return where two commands say different things of one order, or counts do not add up."""
    found: list[str] = []
    diagnosed = {one["order_id"]: one for one in answers["diagnose"]["orders"]}
    found += [f"diagnose: no answer for {one}" for one in asked if one not in diagnosed]
    if "unreturned" in answers:
        found += _of_unreturned(diagnosed, answers["unreturned"])
    if "incidents" in answers:
        found += _of_incidents(answers)
    if "replay" in answers:
        found += _of_replay(diagnosed, answers["replay"])
    lost = [one for one in diagnosed.values() if _fate(one) is Fate.LOST]
    if lost and answers.get("reconcile", {}).get("proven"):
        found.append(f"reconcile: PROVEN, and {len(lost)} are lost")
    overdue = [one for one in diagnosed.values() if _fate(one) in (Fate.LOST, Fate.DELAYED)]
    if overdue and answers.get("status", {}).get("healthy"):
        found.append(f"status: healthy, and {len(overdue)} are lost or delayed")
    return found


def _kind(one: dict[str, Any]) -> Kind:
    return one["hop"], one["verdict"], one["cause"]


def _fate(one: dict[str, Any]) -> Fate:
    return fate_of(one["verdict"], one["cause"])


def _of_unreturned(diagnosed: dict[str, Any], said: dict[str, Any]) -> Iterable[str]:
    listed = {one["order_id"]: one for one in said["orders"]}
    by_hop = Counter(one["hop"] or "unknown" for one in listed.values())
    if dict(by_hop) != said["by_hop"]:
        yield f"unreturned: by_hop {said['by_hop']}, its orders {dict(by_hop)}"
    for order, one in listed.items():
        own = diagnosed.get(order)
        if own is None or one["verdict"] == "not_diagnosed" or _may_differ(own, one):
            continue
        if _kind(own) != _kind(one):
            yield f"{order}: diagnose {_kind(own)}, unreturned {_kind(one)}"
    for order, own in diagnosed.items():
        overdue = _fate(own) in (Fate.LOST, Fate.DELAYED) and own["verdict"] != "no_such_order"
        if overdue and order not in listed:
            yield f"{order}: diagnose {_kind(own)}, not among the unreturned"


def _may_differ(own: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether time alone explains it: a process that has just ended, a look that was short."""
    ended = own["cause"] in PROVISIONAL or other["cause"] in PROVISIONAL
    return ended or "unknown" in (own["verdict"], other["verdict"])


def _of_incidents(answers: Answers) -> Iterable[str]:
    said = answers["incidents"]
    for one in said["incidents"]:
        if sum(one["breakdown"].values()) != one["orders"]:
            yield f"{one['incident']}: {one['orders']} orders, {one['breakdown']}"
    still = sum(
        count
        for one in said["incidents"]
        for name, count in one["breakdown"].items()
        if name not in ("returned late", "closed by hand")
    )
    overdue = answers.get("status", {}).get("overdue")
    if overdue is not None and sum(overdue.values()) != still + said["single_orders"]:
        yield (f"status: {overdue} overdue; incidents: {still} and {said['single_orders']} of none")


def _of_replay(diagnosed: dict[str, Any], plan: dict[str, Any]) -> Iterable[str]:
    planned = {(one["hop"], one["verdict"], one["cause"]): one["count"] for one in plan["by_kind"]}
    if sum(planned.values()) != plan["events"]:
        yield f"replay: {plan['events']} events, by kind {planned}"
    if plan["seen_twice"] > plan["events"]:
        yield f"replay: {plan['seen_twice']} of {plan['events']} were seen before"
    counts = Counter(map(_kind, diagnosed.values()))
    for kind, count in planned.items():
        if count < counts.get(kind, 0) and not _fewer_are_sent(plan):
            yield f"replay: {count} of {kind}, diagnose {counts[kind]}"
        if fate_of(kind[1], kind[2]) is not Fate.LOST:
            yield f"replay: sends {count} of {kind}, which are not lost"


def _fewer_are_sent(plan: dict[str, Any]) -> bool:
    """Tell whether some were replayed before, or cannot be sent."""
    return any(one["reason"] != "already_returned" for one in plan["skipped"])
