"""The whole loop with real processes, for the tests of diagnosis and incidents."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from tests.corpus.wiring import Wiring


@pytest.fixture
def wiring(
    database: str,
    pg: asyncpg.Connection,
    kafka_bootstrap: str,
    topics: Any,
    relay_process: Callable[..., Any],
    relay_command: Callable[..., Any],
    eventually: Callable[..., Awaitable[Any]],
) -> Wiring:
    """The test's own loop."""
    return Wiring(database, pg, kafka_bootstrap, topics, relay_process, relay_command, eventually)
