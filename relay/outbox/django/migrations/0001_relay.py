"""Setup for Django: the schema `relay`, and the unmanaged model of its outbox."""

import uuid
from typing import ClassVar

from django.db import migrations, models

from relay.outbox.django.models import JsonTextField
from relay.outbox.django.operations import RelaySchema


class Migration(migrations.Migration):  # type: ignore[misc]  # Django has no types
    """Makes what `relay migrate` makes; where that was run before, nothing."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar[list[object]] = [
        RelaySchema(),
        migrations.CreateModel(
            name="OutboxEvent",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("event_id", models.UUIDField(default=uuid.uuid4)),
                ("aggregate_type", models.TextField(default="order")),
                ("aggregate_id", models.TextField()),
                ("aggregate_version", models.IntegerField(null=True)),
                ("event_type", models.TextField()),
                ("payload", JsonTextField()),
                ("headers", JsonTextField(null=True)),
                ("traceparent", models.TextField(null=True)),
                ("tracestate", models.TextField(null=True)),
            ],
            options={"db_table": 'relay"."outbox', "managed": False},
        ),
    ]
