"""The relay publishes from a database whose sessions somebody set up oddly."""

from typing import Any

from relay.publish.maintenance.duties import MaintenanceOptions, run_once
from relay.runtime.database import connect
from tests.integration.publish.test_publish_records import insert
from tests.odd_sessions import make_odd


async def test_it_publishes_and_keeps_its_days(lab: Any) -> None:
    row = await insert(lab, aggregate_id="o-1")
    await make_odd(lab.pg)
    async with lab.relaying():
        await lab.until_published(1)
        await insert(lab, aggregate_id="o-2")
        await lab.until_published(2)
    records = await lab.read()
    assert {record.key for record in records} == {"o-1", "o-2"}
    (first,) = [record for record in records if record.key == "o-1"]
    assert first.headers["ce_time"] == row["created_at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    upkeep = await connect(lab.dsn, "relay-test")
    report = await run_once(upkeep, MaintenanceOptions(days_ahead=12))
    assert len(report.partitions.created) == 5
    assert (report.partitions.refused, report.partitions.blocked) == ({}, {})
    await upkeep.close()
