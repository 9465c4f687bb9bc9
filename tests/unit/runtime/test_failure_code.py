"""Every failure has a code, whatever language its sentence is in and however deep it lies."""

import socket
import ssl

import asyncpg
import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)

from relay.consumers.confirm.handling import DatabaseBlockedError
from relay.kafka.consumer.stoppable_calls import BrokerError
from relay.kafka.refusal import KafkaRefusedError
from relay.orders.catalog import FlowTableError
from relay.publish.errors import RestoredDatabaseError, TopicWaitError
from relay.runtime.client_failure import ClientFailure
from relay.runtime.database import DatabaseRefusedError, NotPrimaryError
from relay.runtime.failure_code import failure_code


def caused(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


DENIED = asyncpg.InsufficientPrivilegeError("keine Berechtigung für Tabelle orders")
CASES = [
    (DENIED, "sqlstate:42501"),
    (caused(DatabaseBlockedError("42501: ..."), DENIED), "sqlstate:42501"),
    (ExceptionGroup("several", [ValueError("x"), DENIED]), "sqlstate:42501"),
    (caused(DatabaseRefusedError("x"), asyncpg.InvalidPasswordError("x")), "sqlstate:28P01"),
    (DatabaseRefusedError("no URL"), "database:settings_refused"),
    (NotPrimaryError("x"), "database:standby"),
    (FlowTableError("x"), "database:table_unfit"),
    (TimeoutError(), "database:timed_out"),
    (ConnectionRefusedError(), "database:connection_refused"),
    (ConnectionResetError(), "database:connection_lost"),
    (socket.gaierror(), "database:name_not_resolved"),
    (ssl.SSLError("x"), "database:tls_refused"),
    (asyncpg.InterfaceError("connection is closed"), "database:connection_lost"),
    (RestoredDatabaseError("x"), "database:rebaseline_needed"),
    (ValueError("x"), "database:unexpected"),
    (TopicAuthorizationFailedError("orders"), "kafka:TOPIC_AUTHORIZATION_FAILED"),
    (
        caused(BrokerError("x"), TopicAuthorizationFailedError("orders")),
        "kafka:TOPIC_AUTHORIZATION_FAILED",
    ),
]


@pytest.mark.parametrize(("error", "code"), CASES, ids=[code for _, code in CASES])
def test_a_failure_has_a_code(error: BaseException, code: str) -> None:
    assert failure_code(error, "database") == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KafkaConnectionError("x"), "broker:connection_lost"),
        (KafkaTimeoutError("x"), "broker:timed_out"),
        (UnsupportedCodecError("x"), "broker:codec_missing"),
        (TopicWaitError("x", ClientFailure.TOPIC_MISSING), "broker:topic_missing"),
        (KafkaRefusedError("x", "y", ClientFailure.LOGIN_REFUSED), "broker:login_refused"),
    ],
)
def test_what_happened_on_our_side_names_who_was_spoken_to(error: BaseException, code: str) -> None:
    assert failure_code(error, "broker") == code


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert failure_code(first, "relay") == "relay:unexpected"
