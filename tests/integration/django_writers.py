"""What a Django shop may do with an event, in a process of its own: prints what happened, as JSON.

Started by test_outbox_django.py with DATABASE_URL, and the driver as its argument.
"""

import datetime as dt
import json
import os
import sys
import uuid
from decimal import Decimal
from urllib.parse import unquote, urlsplit

import django
from django.apps import apps
from django.conf import settings
from django.db import connection, connections, transaction
from django.utils.translation import gettext_lazy

if sys.argv[1] == "psycopg2":
    sys.modules["psycopg"] = None  # Django takes psycopg2 where this is not there
url = urlsplit(os.environ["DATABASE_URL"])
database = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": url.path[1:], "USER": url.username, "PASSWORD": unquote(url.password),
    "HOST": url.hostname, "PORT": url.port,
}  # fmt: skip
bound = {"OPTIONS": {"server_side_binding": True}} if sys.argv[1] == "psycopg" else {}
settings.configure(
    DATABASES={
        "default": database | bound,
        "other": database,
        "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
    },
    INSTALLED_APPS=["relay.outbox.django"],
    USE_TZ=True,
)
django.setup()

from relay.outbox import Event, EventRefusedError, EventTypes, NotInTransactionError  # noqa: E402
from relay.outbox.django import append  # noqa: E402
from relay.outbox.testing import recorded  # noqa: E402

TYPES = EventTypes.of("order.placed")
OutboxEvent = apps.get_model("relay_outbox", "OutboxEvent")


def event(order, **payload):
    return Event("order.placed", order, payload or {"a": 1})


def refused(call):
    try:
        call()
    except (NotInTransactionError, EventRefusedError, TypeError) as error:
        return [type(error).__name__, getattr(error, "path", ""), str(error)]
    return None


said = {
    "driver": connection.Database.__name__,
    "autocommit": refused(lambda: append(event("0"), event_types=TYPES)),
    "sqlite": refused(lambda: append(event("0"), using="lite", event_types=TYPES)),
}
with recorded(connection) as outbox:
    with transaction.atomic():
        append(event("first"), event_types=TYPES)  # the transaction's first statement
        try:
            with transaction.atomic():
                append(event("undone"), event_types=TYPES)
                raise RuntimeError  # noqa: TRY301 - as a view does
        except RuntimeError:
            pass
        with transaction.atomic():
            append(event("kept"), event_types=TYPES)
        said["bad"] = refused(lambda: append(
            event("0", lines=[{"of": {object}}]), event_types=TYPES
        ))  # fmt: skip
        append(
            event(
                "types", money=Decimal("9.90"), lazy=gettext_lazy("name"), id=uuid.UUID(int=1),
                at=dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
            ),
            event_types=TYPES,
        )  # fmt: skip
    transaction.set_autocommit(False)
    append(event("by hand"), event_types=TYPES)
    transaction.commit()
    transaction.set_autocommit(True)
    with transaction.atomic():
        OutboxEvent.objects.create(aggregate_id="orm", event_type="order.placed", payload={"b": 1})
        OutboxEvent.objects.bulk_create(
            OutboxEvent(aggregate_id=f"bulk{n}", event_type="order.placed", payload='{ "c": 2}')
            for n in range(2)
        )
        OutboxEvent.objects.create(
            aggregate_id="avro", event_type="order.placed", payload_bytes=b"\0\0\0\0\7x",
            content_type="application/vnd.confluent.avro",
        )  # fmt: skip
with transaction.atomic(using="other"):
    append(event("other"), using="other", event_types=TYPES)
    connections["other"].set_rollback(True)
said["events"] = [(one.aggregate_id, one.text) for one in outbox.events]
said["read"] = [
    (one.aggregate_id, one.payload)
    for one in OutboxEvent.objects.filter(aggregate_id__in=["orm", "bulk0"]).order_by("id")
]
avro = OutboxEvent.objects.get(aggregate_id="avro")
said["avro"] = [bytes(avro.payload_bytes).hex(), avro.content_type, avro.payload]
print(json.dumps(said))  # noqa: T201
