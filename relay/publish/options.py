"""Hop 2's options: the settings of `publish`, and what only this program chooses."""

from __future__ import annotations

from pydantic import Field

from relay.runtime.settings import Settings
from relay.runtime.settings_model import PublishSettings


class PublishOptions(PublishSettings):
    """How the relay reads, sends and paces itself."""

    shard: int = Field(
        default=0, ge=0, description="whose checkpoint and lease; there is one shard now"
    )
    wait_span_seconds: float = Field(
        default=1.0, description="a row that waited longer has a span of its wait"
    )


def publish_options(settings: Settings) -> PublishOptions:
    """Return them as the settings say."""
    return PublishOptions(**dict(settings.publish), wait_span_seconds=settings.trace.wait_seconds)
