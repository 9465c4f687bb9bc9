"""The client's own journal: what it was told of each transaction, fsynced before it goes on.

This file, and nothing that the system under test has written, says what must be in Kafka and what
must not. A transaction's events are written down before COMMIT is sent, its outcome after the
reply; one without an outcome is `unknown`, and is resolved by the client's own table.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["committed", "rolled_back", "unknown"]
# placed: expects a return; noted: expects none; the others must be parked, and what follows them.
Kind = Literal["placed", "noted", "too_large", "no_topic"]


@dataclass(frozen=True)
class Intent:
    """An event that a transaction is about to commit."""

    event_id: str
    order_id: str
    version: int
    kind: Kind


class Journal:
    """Appends lines; `write` returns when they are on disk. Many wait for one fsync."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def intend(self, transaction: str, events: list[Intent]) -> None:
        rows = [[one.event_id, one.order_id, one.version, one.kind] for one in events]
        await self._write({"transaction": transaction, "events": rows})

    async def outcome(self, transaction: str, outcome: Outcome) -> None:
        await self._write({"transaction": transaction, "outcome": outcome})

    async def _write(self, line: dict[str, Any]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((json.dumps(line).encode() + b"\n", future))
        self._wake.set()
        await future

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, []
            await asyncio.to_thread(self._sync, [line for line, _ in batch])
            for _, future in batch:
                if not future.done():
                    future.set_result(None)

    def _sync(self, lines: list[bytes]) -> None:
        self._file.write(b"".join(lines))
        self._file.flush()
        os.fsync(self._file.fileno())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._file.close()


@dataclass
class Truth:
    """What the journal's file says."""

    events: dict[str, list[Intent]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    _read_bytes: int = 0

    def read(self, path: Path) -> None:
        """Read what was added since the last time."""
        with path.open("rb") as file:
            file.seek(self._read_bytes)
            for line in file:
                said = json.loads(line)
                if "events" in said:
                    self.events[said["transaction"]] = [Intent(*one) for one in said["events"]]
                else:
                    self.outcomes[said["transaction"]] = said["outcome"]
            self._read_bytes = file.tell()

    def unresolved(self) -> list[str]:
        """Return the transactions of unknown outcome."""
        return [
            one
            for one in self.events
            if self.outcomes.get(one, "unknown") == "unknown" and one not in self.lost
        ]

    def not_rolled_back(self) -> list[str]:
        """Return the transactions that were, or may have been, committed."""
        return [one for one in self.events if self.outcomes.get(one) != "rolled_back"]

    def resolve(self, found: set[str], asked: list[str]) -> None:
        """Note which transactions of unknown outcome the client's own table holds."""
        for transaction in asked:
            self.outcomes[transaction] = "committed" if transaction in found else "rolled_back"

    def failed_over(self, found: set[str], asked: list[str]) -> None:
        """Note what a database that was promoted lacks: its lag took it, whatever was replied."""
        self.lost |= set(asked) - found

    def lost_events(self) -> set[str]:
        """Return the events that a failover took; they may have been published before."""
        return {one.event_id for transaction in self.lost for one in self.events[transaction]}

    def committed(self) -> Iterator[Intent]:
        for transaction, events in self.events.items():
            if self.outcomes.get(transaction) == "committed" and transaction not in self.lost:
                yield from events

    def rolled_back(self) -> Iterator[Intent]:
        for transaction, events in self.events.items():
            if self.outcomes.get(transaction) == "rolled_back" and transaction not in self.lost:
                yield from events
