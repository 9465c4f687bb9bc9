"""Hop 1 of the sample over HTTP: POST /orders, GET /orders/{id}, and the process's health.

Invariant: 201 is answered after the commit and never before; the same Idempotency-Key gets the same
order, with 200. Every other outcome is problem details.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

import orjson
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.sample.place import trace_id
from relay.sample.serve_body import read_order
from relay.sample.serve_problem import problem_of, refused
from relay.sample.serve_store import OrderStore
from relay.sample.serve_trace import answered, server_span
from relay.telemetry import traceparent

_ORDERS: Final = "/orders"


def application(
    store: OrderStore,
    tracer: Tracer,
    registry: CollectorRegistry,
    *,
    max_body_bytes: int,
    body_seconds: float,
) -> Starlette:
    """Make the order service's application.

    Args:
        store: keeps the orders.
        tracer: records POST /orders and the create span.
        registry: of the process's metrics; the service adds its own to it.
        max_body_bytes: of a submitted order.
        body_seconds: a submitted order's last byte must come within this time.
    """
    submissions = Counter(
        "order_service_submissions", "POST /orders, by answer", ["status"], registry=registry
    )
    service = _OrderService(store, tracer, registry, submissions, max_body_bytes, body_seconds)
    return Starlette(
        routes=[
            Route(_ORDERS, service.place, methods=["POST"]),
            Route(f"{_ORDERS}/{{order_id}}", service.get, methods=["GET"]),
            *(Route(path, service.health, methods=["GET"]) for path in ("/health", "/livez")),
            *(Route(path, service.ready, methods=["GET"]) for path in ("/ready", "/readyz")),
            Route("/metrics", service.metrics, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _routing_problem},
    )


@dataclass(frozen=True, slots=True)
class _OrderService:
    store: OrderStore
    tracer: Tracer
    registry: CollectorRegistry
    submissions: Counter
    max_body_bytes: int
    body_seconds: float

    async def place(self, request: Request) -> Response:
        with server_span(self.tracer, request, _ORDERS) as span:
            response = await _answer(self._placed(request))
            answered(span, response.status_code)
            self.submissions.labels(response.status_code).inc()
            return response

    async def _placed(self, request: Request) -> Response:
        order = await read_order(request, self.max_body_bytes, self.body_seconds)
        placed = await self.store.place(order, self.tracer)
        body = {
            "order_id": str(placed.order_id),
            "status": placed.status,
            "submitted_at": placed.submitted_at,
            "trace_id": trace_id(placed),
        }
        status = HTTPStatus.CREATED if placed.created else HTTPStatus.OK
        return _json(body, status, {"Location": f"{_ORDERS}/{placed.order_id}"})

    async def get(self, request: Request) -> Response:
        return await _answer(self._found(request.path_params["order_id"]))

    async def _found(self, order_id: str) -> Response:
        try:
            order = await self.store.get(UUID(order_id))
        except ValueError:
            order = None
        if order is None:
            raise refused(HTTPStatus.NOT_FOUND, "no_such_order", f"there is no order {order_id}")
        context = traceparent.parse(order.pop("traceparent"))
        # As it was stored, whoever stored it.
        order["items"] = orjson.Fragment(order["items"])
        order["trace_id"] = None if context is None else context.trace_id
        return _json(order, headers={"Cache-Control": "no-store"})

    async def health(self, _request: Request) -> Response:
        return _json({"status": "alive"})

    async def metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    async def ready(self, _request: Request) -> Response:
        return await _answer(self._ready())

    async def _ready(self) -> Response:
        await self.store.require_alive()
        return _json({"status": "ready"})


async def _answer(work: Awaitable[Response]) -> Response:
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - the edge: every error leaves as problem details
        return problem_of(error).response()


async def _routing_problem(_request: Request, error: Exception) -> Response:
    return problem_of(error).response()


def _json(
    body: dict[str, Any],
    status: HTTPStatus = HTTPStatus.OK,
    headers: dict[str, str] | None = None,
) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")
