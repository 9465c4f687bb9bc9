"""Hop 5: does anything of the returns topic wait or stand aside that nobody sees otherwise?

Invariant: pure but for one read. A partition that waits is a failed check: its returns are late;
what stands aside is a warning: it was seen, written down, and waits for a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from relay.diagnose.check.result import Result, failed, ok, unknown, warning
from relay.diagnose.status.counts import read_processes, read_set_aside
from relay.diagnose.status.evidence import ProcessRow, SetAsideCount
from relay.diagnose.status.hops import (
    QUARANTINE_FULL,
    blocked_partitions,
    is_alive,
    quarantine_full,
)
from relay.runtime.database import DRIVER_FAILURES
from relay.runtime.flow import Flow

_PARTITIONS: Final = "confirm.partitions"
_QUARANTINE: Final = "confirm.quarantine"


async def check_set_aside(connection: asyncpg.Connection, flow: Flow) -> list[Result]:
    """Read what the consumers say of themselves and what the quarantine holds, and judge it."""
    try:
        processes = await read_processes(connection, flow)
        aside = await read_set_aside(connection, flow.confirm_group)
    except DRIVER_FAILURES as error:
        fix = "run `relay check` as a member of relay_observer"
        return [unknown(name, str(error), fix) for name in (_PARTITIONS, _QUARANTINE)]
    consumers = [one for one in processes if one.kind == "confirm" and is_alive(one)]
    return judge_set_aside(consumers, aside)


def judge_set_aside(consumers: Sequence[ProcessRow], aside: SetAsideCount) -> list[Result]:
    """Say what waits and what stands aside."""
    blocked = blocked_partitions(consumers)
    waiting = "; ".join(f"{where} waits: {why}" for where, why in blocked.items())
    partitions = (
        failed(_PARTITIONS, waiting, "remove the reason; the consumer tries again by itself")
        if blocked
        else ok(_PARTITIONS, "none waits")
    )
    if quarantine_full(consumers):
        fix = "relay quarantine list; release or discard, or raise RELAY_CONFIRM_QUARANTINE_ROWS"
        return [partitions, failed(_QUARANTINE, QUARANTINE_FULL, fix)]
    if aside.text():
        fix = "relay quarantine list --held-for unreadable; then discard what was looked at"
        return [partitions, warning(_QUARANTINE, aside.text(), fix)]
    return [partitions, ok(_QUARANTINE, "has room, and holds the bytes of every return")]
