"""What a replay's plan shows: what is not shown to work is not said to."""

from datetime import UTC, datetime
from uuid import UUID

import click

from relay.cli.replay_text import plan_lines
from relay.replay.jobs import Job

RUNS = {"healthy": True, "run_by": "group g: 1 member", "note": ""}


def shown(**plan: object) -> str:
    job = Job(
        UUID(int=1), "planned", datetime(2026, 3, 2, tzinfo=UTC), "me", {}, plan, None,
        3, 0, 0, None, None, None, None, None,
    )  # fmt: skip
    return click.unstyle("\n".join(plan_lines(job)))


def test_a_hop_that_runs_works_only_where_a_newer_order_came_back() -> None:
    came = shown(mended={"process": RUNS | {"shown": True}})
    assert "hop process  works: group g: 1 member" in came
    assert "no order that was placed after these" not in came
    none_did = shown(mended={"process": RUNS | {"shown": False}})
    assert "hop process  runs, not shown to work: group g: 1 member" in none_did
    assert "no order that was placed after these has come back" in none_did


def test_a_hop_that_nobody_runs_does_not_work_whatever_came_back() -> None:
    down = shown(mended={"process": RUNS | {"healthy": False, "shown": True}})
    assert "hop process  does NOT work" in down


def test_a_plan_of_a_part_of_the_orders_says_so() -> None:
    assert "only the oldest 100,000 overdue orders were looked at" in shown(cut_at=100_000)
    assert "only the oldest" not in shown(cut_at=None)
