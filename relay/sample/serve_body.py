"""Hop 1 of the sample over HTTP: a request's body becomes an order, or a typed refusal.

Invariant: never more than the cap is held in memory, whatever Content-Length says, and a body that
does not come in time is given up. Nothing was written when anything here raises.
"""

from __future__ import annotations

import asyncio
import json
from functools import cache
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request

from relay.outbox import EventTypes, FieldRefusedError, Item, Limits, NewOrder, SchemaMismatchError
from relay.outbox.event import check_text
from relay.outbox.payload import check, encode
from relay.outbox.place import total_of
from relay.runtime.resources import schemas_folder
from relay.sample.serve_problem import refused

_MEMBERS: Final = ("customer_id", "items", "total", "currency")
_REQUIRED: Final = ["customer_id", "items", "currency"]


async def read_order(request: Request, max_bytes: int, within_seconds: float) -> NewOrder:
    """Read and check a submitted order.

    Args:
        request: POST /orders.
        max_bytes: of the body.
        within_seconds: the body's last byte must come within this time.

    Raises:
        ProblemError: the media type, the size, the time or the Idempotency-Key.
        EventRefusedError: its subclass for the fault in the body.
    """
    key = _idempotency_key(request)
    _require_json(request)
    body = await _body(request, max_bytes, within_seconds)
    return order_of(body, key, Limits(max_bytes=max_bytes))


def order_of(body: bytes, idempotency_key: str | None, limits: Limits) -> NewOrder:
    """Return the order that a body describes.

    `total` may be left out; when it is there it must be the sum of the items.

    Raises:
        EventRefusedError: its subclass for the fault.
    """
    document = check(encode(body), limits)
    _request_types().check("order", "", document)
    items = [Item(one["sku"], one["quantity"], one["price"]) for one in document["items"]]
    _require_total(document, items)
    return NewOrder(
        customer_id=document["customer_id"],
        items=items,
        currency=document["currency"],
        idempotency_key=idempotency_key,
    )


@cache
def _request_types() -> EventTypes:
    """The order.placed schema without what the service itself adds; unknown members are refused."""
    path = schemas_folder() / "events" / "order.placed.json"
    placed: dict[str, Any] = json.loads(path.read_text("utf-8"))
    line = {**placed["$defs"]["item"], "additionalProperties": False}
    schema = {
        "type": "object",
        "required": _REQUIRED,
        "properties": {name: placed["properties"][name] for name in _MEMBERS},
        "additionalProperties": False,
        "$defs": {**placed["$defs"], "item": line},
    }
    return EventTypes().with_type("order", schema)


def _require_total(document: dict[str, Any], items: list[Item]) -> None:
    total = total_of(items)
    if "total" in document and _amount(document["total"]) != _amount(total):
        raise SchemaMismatchError(f"the items make {total}", "/total")


def _amount(money: str) -> tuple[str, str]:
    """Return what equal amounts have in common: digits before the point, digits after it."""
    whole, _, fraction = money.partition(".")
    return whole, fraction.rstrip("0")


def _idempotency_key(request: Request) -> str | None:
    """Read the header, quoted as the IETF's draft wants it or bare."""
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    key = given[0].strip()
    if key.startswith('"') and key.endswith('"') and len(key) > 1:
        key = key[1:-1]
    try:
        check_text("Idempotency-Key", key)
    except FieldRefusedError as error:
        raise refused(HTTPStatus.BAD_REQUEST, "bad_idempotency_key", str(error)) from error
    if len(given) > 1:
        raise refused(HTTPStatus.BAD_REQUEST, "bad_idempotency_key", "one Idempotency-Key, please")
    return key


def _require_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            f"an order is application/json, not {media_type or 'without a Content-Type'}",
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", "send the body uncompressed"
        )


async def _body(request: Request, max_bytes: int, within_seconds: float) -> bytes:
    too_large = refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "payload_too_large", f"larger than {max_bytes} bytes"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(within_seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > max_bytes:
                    raise too_large
                body += chunk
    except TimeoutError as error:
        detail = f"the body did not come within {within_seconds:g} s"
        raise refused(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", detail) from error
    except ClientDisconnect as error:
        raise refused(HTTPStatus.BAD_REQUEST, "client_gone", "the client left") from error
    return bytes(body)
