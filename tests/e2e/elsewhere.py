"""What the tests of other publishers share: their login, their configuration, and what is said."""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from relay.diagnose.causes import Cause
from relay.diagnose.session import session
from relay.publish.options import PublishOptions
from relay.publish.service import RelayService
from relay.repair.take_over import take_over
from tests.connect_worker import documented_connector
from tests.crash.foreign_publisher import accounted, read
from tests.integration.witness.conftest import Lab

ORDER = (
    "INSERT INTO public.orders (order_id, customer_id, items, total, currency, submitted_at)"
    " SELECT aggregate_id::uuid, 'c', '[]', 1, 'EUR', now() - interval '2 hours'"
    "   FROM relay.outbox WHERE id = ANY ($1::bigint[])"
)
INACTIVE = """
SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active)
"""
Placed = Sequence[tuple[int, str, str]]


def connector_for(lab: Lab, names: dict[str, str]) -> dict[str, str]:
    """The documented configuration, with this test's names."""
    url, slot = urlsplit(lab.dsn), names["slot"]
    return documented_connector() | {
        "database.hostname": str(url.hostname), "database.port": str(url.port),
        "database.user": names["login"], "database.password": "x",
        "database.dbname": url.path.removeprefix("/"), "topic.prefix": slot, "slot.name": slot,
        "transforms.outbox.route.topic.replacement": lab.topic,
        "predicates.isOutbox.pattern": f"{slot}\\.relay\\.outbox",
        "predicates.isEvent.pattern": lab.topic.replace(".", "\\."),
    }  # fmt: skip


async def make_overdue(lab: Lab, rows: Placed) -> None:
    """Let these be orders of two hours ago that never came back."""
    ids = [one[0] for one in rows]
    await lab.pg.execute("UPDATE relay.installation SET watched_since = '2020-01-01'")
    await lab.pg.execute(
        "UPDATE relay.outbox SET created_at = created_at - interval '2 hours'"
        " WHERE id = ANY ($1::bigint[])", ids,
    )  # fmt: skip
    await lab.pg.execute(ORDER, ids)


async def causes(lab: Lab, rows: Placed) -> set[Cause]:
    """Return what is said of these."""
    async with session(lab.dsn, lab.kafka, lab.flow) as opened:
        return {one.cause for one in await opened.diagnose([one[2] for one in rows])}


async def until_said(lab: Lab, rows: Placed, cause: Cause) -> None:
    """Wait until it is what is said of each of these."""

    async def said() -> bool:
        return await causes(lab, rows) == {cause}

    await lab.until(said)


async def until_inactive(lab: Lab, slot: str) -> None:
    """Wait until nobody reads the slot."""

    async def inactive() -> bool:
        return bool(await lab.pg.fetchval(INACTIVE, slot))

    await lab.until(inactive)


async def until_sent(lab: Lab, rows: Placed) -> None:
    """Wait until each of these is witnessed."""

    async def sent() -> bool:
        return {one[0] for one in rows} <= {one["id"] for one in await lab.entries()}

    await lab.until(sent)


async def exact(lab: Lab) -> int:
    """See that the ledger holds what stands in Kafka, each record once; return how many."""
    stands = sorted(
        (one.partition(), one.offset(), dict(one.headers())["ce_id"].decode().strip('"'))
        for one in await asyncio.to_thread(read, lab.bootstrap_servers, lab.topic)
    )

    async def equal() -> bool:
        return await accounted(lab.pg, lab.topic) == (stands, [])

    await lab.until(equal)
    return len(stands)


async def taken_over(lab: Lab, missing: int) -> None:
    """Let the relay take over, and see that it sends what is missing, and no more."""
    done = await take_over(lab.dsn, lab.kafka, [lab.flow], "somebody")
    assert done is not None
    assert done.unproven == missing
    stop = asyncio.Event()
    relay = RelayService(lab.dsn, lab.kafka, [lab.flow], PublishOptions(), lab.tracing, stop)
    task = asyncio.create_task(relay.run())

    async def all_published() -> Any:
        return await lab.pg.fetchval(
            "SELECT NOT EXISTS (SELECT FROM relay.outbox AS o WHERE NOT EXISTS ("
            "  SELECT FROM relay.delivery_ledger AS l"
            "   WHERE l.id_range @> o.id AND o.id = ANY (l.outbox_ids)))"
        )

    await lab.until(all_published)
    stop.set()
    await task
    assert relay.progress.published == missing
