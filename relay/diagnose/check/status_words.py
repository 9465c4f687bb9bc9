"""Hop 5: do orders have a status that the flow does not know?

Invariant: said only after every order since the watch began was looked at. Such an order is neither
waiting nor returned for anybody here, and a return for it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import asyncpg

from relay.diagnose.check.result import Result, failed, ok, unknown, warning
from relay.diagnose.watch.odd_statuses import count_unknown
from relay.orders.catalog import FlowTableError
from relay.runtime.database import DRIVER_FAILURES
from relay.runtime.flow import ApplyColumns, Flow

_NAME: Final = "orders.status_words"
_SHOWN: Final = 5
# Ten million orders are read through in less.
_AT_MOST: Final = "SET LOCAL statement_timeout = '10s'"


async def check_status_words(connection: asyncpg.Connection, flow: Flow) -> list[Result]:
    """Read the words, and judge them; nothing is said of a flow that names no orders table."""
    if not isinstance(flow.apply, ApplyColumns):
        return []
    try:
        async with connection.transaction():
            await connection.execute(_AT_MOST)
            words = await count_unknown(connection, flow, most_cost=math.inf)
    except FlowTableError:
        return []  # `orders.types` says so
    except asyncpg.QueryCanceledError:
        fix = "make the index that orders.overdue_index names"
        return [warning(_NAME, "not looked at: to read all orders takes too long", fix)]
    except DRIVER_FAILURES as error:
        return [unknown(_NAME, str(error), "run `relay check` as a role that may see the orders")]
    return [judge_status_words(words or {})]


def judge_status_words(words: Mapping[str, int]) -> Result:
    """Say which statuses the flow does not know."""
    if not words:
        return ok(_NAME, "every order has a status of the flow")
    few = ", ".join(f"{word!r} ({count})" for word, count in list(words.items())[:_SHOWN])
    more = f", and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return failed(
        _NAME,
        f"the flow does not know {few}{more}: such orders are neither waiting nor returned",
        "name them in status_ranks, or in later_statuses if orders go on with them after a return",
    )
