"""Hop 1 for Django: the application `relay.outbox.django`."""

from django.apps import AppConfig
from django.core.checks import Tags, register


class RelayOutboxConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """The outbox as a Django application: model, migration, check."""

    name = "relay.outbox.django"
    label = "relay_outbox"
    verbose_name = "outbox"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the check."""
        from relay.outbox.django.checks import check_outbox  # noqa: PLC0415 - models come later

        register(Tags.database)(check_outbox)
