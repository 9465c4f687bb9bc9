"""Hop 1 for Django: the outbox as an unmanaged model, for those who write events through the ORM.

Invariant: the columns that the order service may write, and no others: `txid` and `created_at` are
the database's. `append` checks payloads and starts the trace; the model does neither.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models


class JsonTextField(models.TextField):  # type: ignore[misc]  # Django has no types
    """A column of type `json`: text stays as it is, other values are written as JSON."""

    def db_type(self, connection: Any) -> str:  # noqa: ARG002 - Django's signature
        """Name the column's type."""
        return "json"

    def get_placeholder(self, value: Any, compiler: Any, connection: Any) -> str:  # noqa: ARG002
        """Cast the text, which a driver may send as text."""
        return "%s::text::json"

    def get_prep_value(self, value: Any) -> Any:
        """Write what is no text as JSON."""
        if value is None or isinstance(value, str):
            return value
        return json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False, separators=(",", ":"))

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:  # noqa: ARG002
        """Return what the JSON says, whether or not the driver has read it already."""
        return json.loads(value) if isinstance(value, str) else value


class OutboxEvent(models.Model):  # type: ignore[misc]  # the same
    """An event, as docs/order-service.md tells of its columns. Rows are only ever added.

    It has a `payload` or, where that is not JSON, `payload_bytes` with its `content_type`.
    """

    id = models.BigAutoField(primary_key=True)
    event_id = models.UUIDField(default=uuid.uuid4)
    aggregate_type = models.TextField(default="order")
    aggregate_id = models.TextField()
    aggregate_version = models.IntegerField(null=True)
    event_type = models.TextField()
    payload = JsonTextField(null=True)
    payload_bytes = models.BinaryField(null=True)
    content_type = models.TextField(null=True)  # noqa: DJ001 - the relay's table has NULL
    headers = JsonTextField(null=True)
    traceparent = models.TextField(null=True)  # noqa: DJ001 - the relay's table has NULL
    tracestate = models.TextField(null=True)  # noqa: DJ001 - the same

    class Meta:
        """The relay's own table, in its own schema."""

        app_label = "relay_outbox"
        managed = False
        db_table = 'relay"."outbox'

    def __str__(self) -> str:
        """Return what happened to what."""
        return f"{self.event_type} {self.aggregate_id}"
