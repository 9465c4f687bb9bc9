"""The shop's own tests: `manage.py test` makes the outbox in its database, and reads it back."""

from django.db import DatabaseError, connection, transaction
from django.test import TestCase

from relay.outbox.testing import recorded
from shop.models import Order
from shop.orders import place_order

LINES = [{"sku": "tea", "quantity": 2, "price": "4.95"}]


class PlacingAnOrder(TestCase):
    """An order and its event go together."""

    def test_an_order_has_its_event(self) -> None:
        with recorded(connection) as outbox:
            answer = self.client.post(
                "/orders",
                {"number": "A-1", "email": "a@example.com", "lines": LINES},
                content_type="application/json",
            )
        self.assertEqual(answer.status_code, 201)
        (event,) = outbox.events
        self.assertEqual(event.event_type, "order.placed")
        self.assertEqual(event.aggregate_id, str(answer.json()["id"]))
        self.assertEqual(event.payload["total"], "9.90")

    def test_an_order_that_fails_has_none(self) -> None:
        place_order("A-1", "a@example.com", LINES)
        with (
            recorded(connection) as outbox,
            self.assertRaises(DatabaseError),
            transaction.atomic(),
        ):
            place_order("A-2", "a@example.com", LINES)
            place_order("A-1", "a@example.com", LINES)  # the number is taken
        self.assertEqual(outbox.types, [])
        self.assertEqual(Order.objects.count(), 1)
