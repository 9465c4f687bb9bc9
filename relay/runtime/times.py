"""Times that other people's programs wrote, made into datetimes that never fail.

Invariant: total. A time outside the calendar of `datetime` (infinity, 4713 BC, a record stamped in
microseconds), or at its edge, where arithmetic would fail, becomes an `OddTime`: it compares as
what it is near to, arithmetic leaves it where it is, and it is shown as what it was. PostgreSQL
gets an odd time back as the very value that it gave.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final, Self, SupportsIndex

if TYPE_CHECKING:
    from asyncpg import Connection

# A year from either end of the calendar: what is added to, or converted, in between cannot fail
# by the seconds, days and zones that are added here.
_FIRST: Final = datetime(2, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9999, 1, 1, tzinfo=UTC)
_EDGE_BEFORE: Final = datetime(1, 1, 1, tzinfo=UTC)
_UNIX: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

# PostgreSQL's timestamps are microseconds since 2000, in 8 bytes; their ends mean infinity.
_POSTGRES: Final = datetime(2000, 1, 1, tzinfo=UTC)
_INFINITY: Final = 2**63 - 1
_MINUS_INFINITY: Final = -(2**63)
_FIRST_MICROSECONDS: Final = (_FIRST - _POSTGRES) // _MICROSECOND
_LAST_MICROSECONDS: Final = (_LAST - _POSTGRES) // _MICROSECOND
_UNIX_LAST_MS: Final = (_LAST - _UNIX) // timedelta(milliseconds=1)
# What Kafka takes for a time at all; beyond it brokers answer with an error.
_KAFKA_LAST_MS: Final = 2**63 - 1

_DAYS_OF_400_YEARS: Final = 146_097
_DAY_MICROSECONDS: Final = 86_400_000_000
_DAYS_TO_POSTGRES: Final = _POSTGRES.toordinal() - 1


class OddTime(datetime):
    """A time at or beyond the edge of the calendar; made by the functions of this module only.

    Attributes:
        text: what it is: `infinity`, `0001-01-01 00:00:00+00:00`, `year 58882`.
        microseconds: PostgreSQL's own value, where it came from there.
    """

    text: str | None = None
    microseconds: int | None = None

    def __add__(self, _span: timedelta) -> Self:
        return self

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self if isinstance(other, timedelta) else super().__sub__(other)

    def astimezone(self, _zone: tzinfo | None = None) -> Self:
        """Return itself: no zone makes it another day."""
        return self

    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        """Return what it is."""
        return self.text or super().isoformat(sep, timespec)

    def strftime(self, _format: str) -> str:
        """Return what it is."""
        return str(self)

    def __format__(self, _format: str) -> str:
        return str(self)

    def __reduce_ex__(self, _protocol: SupportsIndex) -> tuple[Any, ...]:
        edge = datetime(*self.timetuple()[:6], tzinfo=UTC)
        return _odd, (edge, self.text, self.microseconds)


def _odd(near: datetime, text: str | None, microseconds: int | None = None) -> OddTime:
    at = near.astimezone(UTC)
    odd = OddTime(
        at.year, at.month, at.day, at.hour, at.minute, at.second, at.microsecond, tzinfo=UTC
    )
    odd.text, odd.microseconds = text, microseconds
    return odd


def of_milliseconds(milliseconds: int) -> datetime:
    """Return the time of a record, in Unix milliseconds; Kafka's -1 means that it has none."""
    if milliseconds < 0:
        return _odd(_UNIX, "no time" if milliseconds == -1 else f"{milliseconds} ms before 1970")
    if milliseconds >= _UNIX_LAST_MS:
        days = milliseconds // 86_400_000 + _UNIX.toordinal() - 1
        return _odd(_LAST, f"year {_year(days)}")
    return _UNIX + timedelta(milliseconds=milliseconds)


def to_milliseconds(at: datetime) -> int:
    """Return Unix milliseconds, within what Kafka takes as a time to look for."""
    return min(max((at - _UNIX) // timedelta(milliseconds=1), 0), _KAFKA_LAST_MS)


def of_postgres(microseconds: int) -> datetime:
    """Return the time that PostgreSQL writes as so many microseconds since 2000."""
    if _FIRST_MICROSECONDS <= microseconds < _LAST_MICROSECONDS:
        return _POSTGRES + timedelta(microseconds=microseconds)
    if microseconds == _INFINITY:
        return _odd(_LAST, "infinity", microseconds)
    if microseconds == _MINUS_INFINITY:
        return _odd(_EDGE_BEFORE, "-infinity", microseconds)
    if microseconds >= _LAST_MICROSECONDS:
        return _odd(_LAST, f"year {_year(_days(microseconds))}", microseconds)
    year = _year(_days(microseconds))
    if year < 1:
        return _odd(_EDGE_BEFORE, f"year {1 - year} BC", microseconds)
    at = _POSTGRES + timedelta(microseconds=microseconds)
    return _odd(at, at.isoformat(" "), microseconds)


def to_postgres(at: datetime) -> int:
    """Return the microseconds since 2000; an odd time from PostgreSQL is what it was there."""
    if isinstance(at, OddTime) and at.microseconds is not None:
        return at.microseconds
    return (at.astimezone(UTC) - _POSTGRES) // _MICROSECOND


def later(at: datetime, seconds: float) -> datetime:
    """Return the time so many seconds later (earlier: negative), whatever the two are."""
    if isinstance(at, OddTime):
        return at
    try:
        moved = at + timedelta(seconds=seconds)
        in_reach = _FIRST <= moved < _LAST
    except (OverflowError, ValueError):
        in_reach = False
    if in_reach:
        return moved
    return _odd(_LAST, "never") if seconds > 0 else _odd(_EDGE_BEFORE, "before all time")


async def read_any_time(connection: Connection) -> None:
    """Let a connection give and take `timestamptz` by this module: no value of it fails."""
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=lambda at: to_postgres(at).to_bytes(8, "big", signed=True),
        decoder=lambda data: of_postgres(int.from_bytes(data, "big", signed=True)),
        format="binary",
    )


def _days(microseconds: int) -> int:
    return microseconds // _DAY_MICROSECONDS + _DAYS_TO_POSTGRES


def _year(days: int) -> int:
    """Return the year of a day, counted from 0001-01-01, of any size; 0 is 1 BC."""
    ages, rest = divmod(days, _DAYS_OF_400_YEARS)
    return 400 * ages + datetime.fromordinal(rest + 1).year
