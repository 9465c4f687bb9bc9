"""What a failure is, as a code that no language and no driver's release changes.

Invariant: pure, and total: every exception has a code. A code names who spoke, and what it said in
its own terms: `sqlstate:42501` (PostgreSQL, appendix A), `kafka:TOPIC_AUTHORIZATION_FAILED` (Kafka
protocol guide), and `database:timed_out`, `broker:connection_refused`, `relay:rebaseline_needed`
for what happened on our own side. Diagnosis judges codes; sentences are for people.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from typing import Final, Literal

import asyncpg
from aiokafka.errors import KafkaError, KafkaTimeoutError, UnsupportedCodecError

from relay.runtime.client_failure import ClientFailure

Speaker = Literal["database", "broker", "publisher", "registry", "relay"]


_BY_TYPE: Final[tuple[tuple[type[BaseException], ClientFailure], ...]] = (
    # The order counts: each is a kind of one that comes later.
    (UnsupportedCodecError, ClientFailure.CODEC_MISSING),
    (KafkaTimeoutError, ClientFailure.TIMED_OUT),
    (KafkaError, ClientFailure.CONNECTION_LOST),
    (ssl.SSLError, ClientFailure.TLS_REFUSED),
    (socket.gaierror, ClientFailure.NAME_NOT_RESOLVED),
    (TimeoutError, ClientFailure.TIMED_OUT),
    (ConnectionRefusedError, ClientFailure.CONNECTION_REFUSED),
    (OSError, ClientFailure.CONNECTION_LOST),
    (asyncpg.InternalClientError, ClientFailure.CONNECTION_LOST),
    (asyncio.IncompleteReadError, ClientFailure.CONNECTION_LOST),
    (asyncpg.InterfaceError, ClientFailure.CONNECTION_LOST),
)


def failure_code(error: BaseException, speaker: Speaker) -> str:
    """Return the code of an error.

    Args:
        error: whatever was raised; its causes are looked through for one that says more.
        speaker: who was spoken to, for what happened on our side.
    """
    chain = tuple(_chain(error))
    for one in chain:
        answered = _answered(one)
        if answered is not None:
            return answered
    for one in chain:
        failure = getattr(one, "failure", None)  # what an error of ours knows of itself
        if isinstance(failure, ClientFailure):
            return f"{speaker}:{failure}"
    for one in chain:
        for kind, failure in _BY_TYPE:
            if isinstance(one, kind):
                return f"{speaker}:{failure}"
    return f"{speaker}:{ClientFailure.UNEXPECTED}"


def _answered(error: BaseException) -> str | None:
    """Return the code that the server itself gave."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
        return f"sqlstate:{error.sqlstate}"
    if isinstance(error, KafkaError) and (getattr(error, "errno", None) or 0) > 0:
        return f"kafka:{getattr(error, 'message', None) or error.errno}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what a group holds, and what each was raised from."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        below = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        if below is not None:
            waiting.append(below)
