"""The ranges of the settings' numbers, each with the reason for its end.

Invariant: what is accepted survives every sum that is made with it: with times in Python and in
PostgreSQL, in milliseconds for Kafka, in bytes for a field of PostgreSQL.
"""

from typing import Annotated, Final

from pydantic import AfterValidator, Field, PositiveInt

from relay.runtime.flow_rules import LONGEST_DEADLINE_SECONDS

FOREVER_DAYS: Final = 36_500
"""A hundred years: more days mean the same, "for ever", and today minus them is still a date."""

Port = Annotated[int, Field(ge=0, le=65535)]

Days = Annotated[PositiveInt, AfterValidator(lambda days: min(days, FOREVER_DAYS))]
"""How long something is kept; any larger number is taken for FOREVER_DAYS."""

DaysAhead = Annotated[int, Field(ge=1, le=366)]
"""Each is a table, which every statement about the outbox opens."""

Pause = Annotated[float, Field(ge=0.001, le=86_400.0, allow_inf_nan=False)]
"""Seconds between two looks; a day without one is no longer a service."""

Patience = Annotated[float, Field(ge=0.1, le=3_600.0, allow_inf_nan=False)]
"""Seconds that somebody is waited for; clients count them in milliseconds, in 32 bits."""

SessionTimeout = Annotated[float, Field(ge=0.1, le=1_800.0, allow_inf_nan=False)]
"""Seconds; a broker's group.max.session.timeout.ms is half an hour unless somebody raised it."""

Deadline = Annotated[float, Field(gt=0, le=LONGEST_DEADLINE_SECONDS, allow_inf_nan=False)]
"""Seconds until a return is overdue."""

Rows = Annotated[int, Field(ge=1, le=100_000)]
"""Handled at once: they are held in memory, and arrays of them are one statement's argument."""

Bytes = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""A field of PostgreSQL and a record of Kafka hold less than 2**30."""

Parallel = Annotated[int, Field(ge=1, le=100)]
"""At once: each has memory, and some have a connection of their own."""
