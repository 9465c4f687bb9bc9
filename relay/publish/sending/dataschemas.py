"""Hop 2: what `ce_dataschema` says of the events whose schemas come with this program.

Invariant: an event type that is the user's own has no such header unless the settings name one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from relay.runtime.resources import schemas_folder


def dataschemas(event_types: Iterable[str], configured: Mapping[str, str]) -> dict[str, str]:
    """Return the URI of each event type that has one; the configured ones win."""
    found: dict[str, str] = {}
    for path in sorted((schemas_folder() / "events").glob("*.json")):
        if path.stem in event_types:
            found[path.stem] = json.loads(path.read_text("utf-8"))["$id"]
    return found | dict(configured)
