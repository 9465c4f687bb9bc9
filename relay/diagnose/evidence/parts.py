"""Evidence that is missing, and a process as it recorded itself; values only."""

from dataclasses import dataclass
from datetime import datetime

from relay.diagnose.causes import Cause


@dataclass(frozen=True, slots=True)
class Missing:
    """A part of the evidence that could not be had.

    Attributes:
        what: the part, in words.
        cause: one of the causes that go with `unknown`.
        detail: what the database or the broker said.
        how_to_get: what to do so that it can be had.
    """

    what: str
    cause: Cause
    detail: str = ""
    how_to_get: str = ""


@dataclass(frozen=True, slots=True)
class ProcessSeen:
    """A process record of ours, as it stood when the evidence was gathered.

    Attributes:
        connected: a database connection of its kind of process is open (None: not visible to us).
        state: what it says it does, in its own word; `error` is what it waits for or died of.
        failure_code: of what it waits for, and `stop_code` of what ended it; None: nothing, or a
            process of an older version, which records none.
    """

    instance: str
    started_at: datetime
    heartbeat_at: datetime
    stopped_at: datetime | None = None
    stop_reason: str | None = None
    connected: bool | None = None
    state: str | None = None
    error: str | None = None
    failure_code: str | None = None
    stop_code: str | None = None
