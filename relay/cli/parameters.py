"""What several commands take on the command line: times, incidents."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click


class SinceType(click.ParamType[datetime]):
    """A time (`2026-03-01`, `2026-03-01T00:30`), or how long ago (`90m`, `24h`, `7d`)."""

    name = "time"
    _UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # noqa: RUF012 - a constant

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Read it; a time without a zone is this machine's."""
        if isinstance(value, datetime):
            return value
        ago = re.fullmatch(r"(\d+)([smhd])", value)
        if ago is not None:
            seconds = int(ago[1]) * self._UNITS[ago[2]]
            return datetime.now(UTC) - timedelta(seconds=seconds)
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither a time nor like 90m, 24h, 7d", param, ctx)


class IncidentType(click.ParamType[int]):
    """`I-17`, or 17."""

    name = "I-N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number."""
        found = re.fullmatch(r"(?:[Ii]-)?(\d{1,18})", str(value))
        if found is None:
            self.fail(f"{value!r} is no incident: `relay incidents` lists them", param, ctx)
        return int(found[1])


SINCE = SinceType()
INCIDENT = IncidentType()
