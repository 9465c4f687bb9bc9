"""Placing an order: order, lines and event are one transaction."""

from decimal import Decimal
from typing import Any

from django.db import transaction

from relay.outbox import Event, EventTypes
from relay.outbox.django import append
from shop.models import Order, OrderLine

# The shop's own event types; another name is refused here, and not lost later.
TYPES = EventTypes.of("order.placed")


def place_order(number: str, email: str, lines: list[dict[str, Any]]) -> Order:
    """Save an order and append its event; both are committed, or neither."""
    with transaction.atomic():
        total = sum((Decimal(line["price"]) * line["quantity"] for line in lines), Decimal(0))
        order = Order.objects.create(number=number, email=email, total=total)
        OrderLine.objects.bulk_create(OrderLine(order=order, **line) for line in lines)
        payload = {
            "order_id": order.pk,
            "number": number,
            "total": order.total,  # Django's encoder writes a Decimal as a string of digits
            "created_at": order.created_at,
            "lines": [{"sku": one["sku"], "quantity": one["quantity"]} for one in lines],
        }
        append(Event("order.placed", str(order.pk), payload), event_types=TYPES)
    return order
