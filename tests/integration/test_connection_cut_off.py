"""A connection that the server ends: every error that asyncpg then raises means the same to us."""

import asyncio

import asyncpg
import pytest

from relay.consumers.confirm.failures import Failure, classify
from relay.runtime.database import is_connection_loss


async def test_a_terminated_connection_is_a_loss_whenever_it_is_noticed(
    database: str, pg: asyncpg.Connection
) -> None:
    """asyncpg raises one of three errors, by how far it has read when the next statement comes."""
    kinds = set()
    for turns in range(30):
        connection = await asyncpg.connect(database)
        await connection.execute("BEGIN")
        await pg.fetchval("SELECT pg_terminate_backend($1)", connection.get_server_pid())
        for _ in range(turns % 6):
            await asyncio.sleep(0)
        with pytest.raises(Exception) as lost:  # noqa: PT011 - which one is what is tested
            await connection.execute("COMMIT")
        kinds.add(type(lost.value))
        assert is_connection_loss(lost.value), repr(lost.value)
        assert classify(lost.value) is Failure.AWAY
        connection.terminate()
    assert asyncpg.ConnectionDoesNotExistError in kinds
