"""Setup for Django: the schema as of this version, and payloads that are not JSON."""

from typing import ClassVar

from django.db import migrations, models

from relay.outbox.django.models import JsonTextField
from relay.outbox.django.operations import RelaySchema


class Migration(migrations.Migration):  # type: ignore[misc]  # Django has no types
    """Brings the schema `relay` up to this version, as `relay migrate` does."""

    dependencies: ClassVar[list[tuple[str, str]]] = [("relay_outbox", "0001_relay")]
    operations: ClassVar[list[object]] = [
        RelaySchema(),
        migrations.AlterField("OutboxEvent", "payload", JsonTextField(null=True)),
        migrations.AddField("OutboxEvent", "payload_bytes", models.BinaryField(null=True)),
        migrations.AddField("OutboxEvent", "content_type", models.TextField(null=True)),
    ]
