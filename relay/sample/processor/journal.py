"""Hops 3-4 of the sample: the truth about the faults, for whoever judges a diagnosis by it.

Invariant: a line is on disk before its fault can show (before the crash, before the commit), and an
event has each of its faults once, however often it is delivered. A last line cut by a crash is
passed over.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self, get_args

import orjson

from relay.sample.processor.faults import Befallen, By, Fault


@dataclass(frozen=True, slots=True)
class FaultLine:
    """One line: this befell that event."""

    befallen: Befallen
    order_id: str
    event_id: str
    topic: str
    partition: int
    offset: int

    def as_json(self) -> bytes:
        """Write the line, its end included."""
        line = {
            "at": datetime.now(UTC).isoformat(),
            "fault": self.befallen.fault,
            "by": self.befallen.by,
            "order_id": self.order_id,
            "event_id": self.event_id,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
        }
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(slots=True)
class FaultJournal:
    """Keeps what was done to whom: in memory for the summary, in a file when one is named."""

    path: Path | None = None
    counts: Counter[Fault] = field(default_factory=Counter)
    _written: set[tuple[str, Fault]] = field(default_factory=set)
    _file: BinaryIO | None = None

    def __enter__(self) -> Self:
        if self.path is not None:
            whole = not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")
            self._file = self.path.open("ab")
            if not whole:
                self._file.write(b"\n")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def recall(self) -> Iterator[tuple[str, Befallen]]:
        """Give what earlier runs wrote, (event id, fault), and count it as written."""
        if self.path is None or not self.path.exists():
            return
        for line in self.path.read_bytes().splitlines():
            read = _read_line(line)
            if read is not None:
                self._written.add((read[0], read[1].fault))
                yield read

    def write(self, lines: list[FaultLine]) -> None:
        """Put new lines on disk; those written before are passed over."""
        new = [one for one in lines if (one.event_id, one.befallen.fault) not in self._written]
        self._written.update((one.event_id, one.befallen.fault) for one in new)
        self.counts.update(one.befallen.fault for one in new)
        if self._file is None or not new:
            return
        self._file.write(b"".join(one.as_json() for one in new))
        self._file.flush()
        os.fsync(self._file.fileno())


def _read_line(line: bytes) -> tuple[str, Befallen] | None:
    try:
        read: dict[str, Any] = orjson.loads(line)
        by: By = read["by"]
        if by not in get_args(By):
            return None
        return read["event_id"], Befallen(Fault(read["fault"]), by)
    except (ValueError, KeyError, TypeError):
        return None
