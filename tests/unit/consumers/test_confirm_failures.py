"""Hop 5: which errors are about one return, and which are not: a table."""

import asyncpg
import pytest

from relay.consumers.apply.columns import StatusNotKeptError
from relay.consumers.confirm.failures import Failure, classify, described
from relay.consumers.returns.packing import (
    NULL,
    SEPARATOR,
    packed,
    packed_nullable,
    packed_numbers,
    storable,
)
from relay.orders.catalog import FlowTableError
from relay.runtime.database import DatabaseRefusedError, DatabaseUnreachableError

ERRORS = [
    (asyncpg.CheckViolationError("x"), Failure.REFUSED),
    (asyncpg.ForeignKeyViolationError("x"), Failure.REFUSED),
    (asyncpg.UniqueViolationError("x"), Failure.REFUSED),
    (asyncpg.RaiseError("x"), Failure.REFUSED),
    (asyncpg.NumericValueOutOfRangeError("x"), Failure.REFUSED),
    (asyncpg.CharacterNotInRepertoireError("x"), Failure.REFUSED),
    (asyncpg.ProgramLimitExceededError("x"), Failure.REFUSED),
    (asyncpg.DataError("x"), Failure.REFUSED),
    (StatusNotKeptError({"1": "x"}), Failure.REFUSED),
    (RecursionError("x"), Failure.REFUSED),
    (asyncpg.InsufficientPrivilegeError("x"), Failure.BLOCKED),
    (asyncpg.UndefinedTableError("x"), Failure.BLOCKED),
    (asyncpg.UndefinedColumnError("x"), Failure.BLOCKED),
    (asyncpg.DiskFullError("x"), Failure.BLOCKED),
    (asyncpg.OutOfMemoryError("x"), Failure.BLOCKED),
    (asyncpg.ReadOnlySQLTransactionError("x"), Failure.BLOCKED),
    (asyncpg.InternalServerError("x"), Failure.BLOCKED),
    (DatabaseRefusedError("x"), Failure.BLOCKED),
    (FlowTableError("x"), Failure.BLOCKED),
    (asyncpg.DeadlockDetectedError("x"), Failure.RETRY),
    (asyncpg.SerializationError("x"), Failure.RETRY),
    (asyncpg.QueryCanceledError("x"), Failure.RETRY),
    (asyncpg.LockNotAvailableError("x"), Failure.LOCKED),
    (asyncpg.AdminShutdownError("x"), Failure.AWAY),
    (asyncpg.CannotConnectNowError("x"), Failure.AWAY),
    (asyncpg.ConnectionDoesNotExistError("x"), Failure.AWAY),
    (asyncpg.InterfaceError("connection is closed"), Failure.AWAY),
    (asyncpg.InterfaceError("the server expects 16 arguments"), Failure.BLOCKED),
    (DatabaseUnreachableError("x"), Failure.AWAY),
    (TimeoutError(), Failure.AWAY),
    (ConnectionResetError(), Failure.AWAY),
]


@pytest.mark.parametrize(("error", "failure"), ERRORS, ids=lambda one: type(one).__name__)
def test_what_an_error_means(error, failure):
    assert classify(error) is failure


def test_an_identity_that_is_there_already_is_tried_again_with_a_look_first():
    error = asyncpg.UniqueViolationError("x")
    error.schema_name, error.table_name = "relay", "inbox"
    assert classify(error) is Failure.RETRY


def test_a_person_is_told_the_sqlstate():
    error = asyncpg.CheckViolationError("status is wrong")
    assert described(error).startswith("23514: status is wrong")
    assert described(OSError("gone")) == "OSError: gone"


def test_columns_are_packed():
    assert packed(["a", "b"]).split(SEPARATOR) == ["a", "b"]
    assert packed_nullable(["a", None]).split(SEPARATOR) == ["a", NULL]
    assert packed_numbers([1, -2]).split(SEPARATOR) == ["1", "-2"]
    assert not any(map(storable, ("", "a\0", SEPARATOR, NULL)))
