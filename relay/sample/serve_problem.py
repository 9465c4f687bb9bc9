"""Hop 1 of the sample over HTTP: every error becomes problem details (RFC 9457), once, here.

Invariant: no answer with a status of 400 or more has another form, and none shows a traceback, a
statement or a connection's address. What nobody foresaw is a 500, logged with all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from relay.outbox import (
    EventRefusedError,
    FirstOrderGoneError,
    IdempotencyConflictError,
    NotJsonError,
    PayloadTooLargeError,
)

_LOG = logging.getLogger(__name__)
_RETRY_AFTER_SECONDS = "1"


class UnavailableError(Exception):
    """The database cannot take the order now; nothing is known to be wrong with the order."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One answer of problem details; `code` is stable and meant for programs."""

    status: int
    code: str
    detail: str
    more: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """Return the answer."""
        body = {
            "type": f"urn:outbox-relay:problem:{self.code.replace('_', '-')}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.more,
        }
        return Response(
            orjson.dumps(body),
            self.status,
            headers=dict(self.headers),
            media_type="application/problem+json",
        )


class ProblemError(Exception):
    """A request that is answered with this problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def refused(status: HTTPStatus, code: str, detail: str) -> ProblemError:
    """Return the error to raise for a request that is refused."""
    return ProblemError(Problem(status, code, detail))


def problem_of(error: Exception) -> Problem:
    """Translate what went wrong into the answer."""
    match error:
        case ProblemError():
            return error.problem
        case HTTPException():
            return _of_routing(error)
        case IdempotencyConflictError():
            more = {"order_id": error.order_id}
            return Problem(HTTPStatus.CONFLICT, error.code, str(error), more)
        case EventRefusedError():
            return _of_refusal(error)
        case UnavailableError() | FirstOrderGoneError():
            return Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "unavailable",
                "the order could not be stored now: send it again, with the same Idempotency-Key",
                headers={"Retry-After": _RETRY_AFTER_SECONDS},
            )
    _LOG.error("request_failed", exc_info=error)
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "the request failed; it was logged"
    )


def _of_refusal(error: EventRefusedError) -> Problem:
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    if isinstance(error, PayloadTooLargeError):
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    elif isinstance(error, NotJsonError):
        status = HTTPStatus.BAD_REQUEST
    return Problem(status, error.code, error.reason, {"path": error.path})


def _of_routing(error: HTTPException) -> Problem:
    code = HTTPStatus(error.status_code).name.lower()
    return Problem(error.status_code, code, error.detail, headers=error.headers or {})
