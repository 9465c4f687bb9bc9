"""Before hop 1: the server span of POST /orders, with which an order's one trace begins.

Invariant: a caller's own W3C context is continued, sampled or not; with exporting off it is passed
on as it came. Tracing never fails a request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.requests import Request

from relay.telemetry import names

_W3C = TraceContextTextMapPropagator()
_SERVER_ERROR = 500


@contextmanager
def server_span(tracer: Tracer, request: Request, route: str) -> Iterator[Span]:
    """Make the request's span the current one."""
    headers = {
        name: request.headers.getlist(name)
        for name in ("traceparent", "tracestate")
        if name in request.headers
    }
    span = tracer.start_span(
        names.server_span(request.method, route),
        context=_W3C.extract(headers),
        kind=SpanKind.SERVER,
        attributes={
            names.HTTP_REQUEST_METHOD: request.method,
            names.HTTP_ROUTE: route,
            names.URL_PATH: request.url.path,
            names.URL_SCHEME: request.url.scheme,
        },
    )
    with use_span(span, end_on_exit=True):
        yield span


def answered(span: Span, status: int) -> None:
    """Note the answer's status; only what is this side's fault is an error of a server span."""
    span.set_attribute(names.HTTP_RESPONSE_STATUS_CODE, status)
    if status >= _SERVER_ERROR:
        span.set_attribute(names.ERROR_TYPE, str(status))
        span.set_status(Status(StatusCode.ERROR))
