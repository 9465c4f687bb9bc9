"""`relay close I-1`: an incident, an order, or refused because it is both."""

from dataclasses import replace

import asyncpg
import click
import pytest

from relay.cli.close import _Named, _told_apart
from relay.runtime.flow import Flow, Observe
from relay.runtime.settings import load_settings

INCIDENT = (
    "INSERT INTO relay.incident (hop, verdict, cause, from_at, to_at)"
    " VALUES ('publish', 'not_published', 'relay_down', now(), now())"
)
EVENT = (
    "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
    " VALUES ('order', $1, 'order.placed', '{}')"
)


@pytest.fixture
def flow() -> Flow:
    """Orders whose ids are anybody's text."""
    return replace(load_settings(environment={}).flow, apply=Observe())


async def test_a_word_that_is_only_one_of_both_is_that(pg: asyncpg.Connection, flow: Flow) -> None:
    await pg.execute(INCIDENT)
    await pg.execute(EVENT, "I-2")
    named = _Named(("I-1", "I-2", "I-9", "--help"), ("I-1",), (2,))
    # I-9 is neither: it is taken for an incident, of which there is none.
    assert await _told_apart(pg, flow, named) == (["I-1", "I-2", "--help"], [2, 1, 9])


async def test_a_word_that_is_both_is_refused_with_the_two_commands(
    pg: asyncpg.Connection, flow: Flow
) -> None:
    await pg.execute(INCIDENT)
    await pg.execute(EVENT, "I-1")
    with pytest.raises(click.UsageError) as refused:
        await _told_apart(pg, flow, _Named(("I-1",), (), ()))
    assert "relay close --order I-1 " in refused.value.message
    assert "relay close --incident I-1 " in refused.value.message
