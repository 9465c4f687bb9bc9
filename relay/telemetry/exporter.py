"""Every hop's spans: their delivery to a collector, in the background.

Invariant: `offer` never waits, never raises and never slows the hop; what a slow or absent
collector cannot take is dropped, newest first, and every span is counted once: exported, or dropped
with the reason. Memory is bounded by `queue_bytes`. While the collector is away one log line says
so, and one says what it cost when it is back.

A thread with a kept connection does the sending: the interpreter's lock is free while it writes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final, Literal, Protocol

import structlog

from relay.runtime.backoff import Backoff
from relay.telemetry.export_settings import ExportSettings
from relay.telemetry.transport import Answer, Transport, connect

DropReason = Literal["queue_full", "unreachable", "refused", "rejected", "not_encoded", "shutdown"]

DEFAULT_QUEUE_BYTES: Final = 32 * 1024 * 1024
# Requests are joined up to this size: well under the 4 MiB that gRPC servers take by default.
_REQUEST_BYTES: Final = 1024 * 1024
_LINGER_SECONDS: Final = 0.2
_LOSS_LOG_SECONDS: Final = 60.0
_GIVE_UP_SECONDS: Final = 30.0
# Between attempts while the process is stopping, whatever the back-off was.
_CLOSING_PAUSE_SECONDS: Final = 0.1
_BACKOFF: Final = Backoff(first_seconds=0.5, cap_seconds=5.0)

_LOG: Final = structlog.stdlib.get_logger("relay.telemetry")


class Spans(Protocol):
    """What can be offered: encoded spans, or spans that encode themselves when asked."""

    @property
    def request(self) -> bytes:
        """An ExportTraceServiceRequest."""
        ...

    @property
    def spans(self) -> int:
        """How many spans it holds."""
        ...

    @property
    def size_bytes(self) -> int:
        """How much memory it holds, about."""
        ...


@dataclass(frozen=True, slots=True)
class ExportCounts:
    """What became of the spans offered so far, and what waits (being sent included)."""

    exported: int
    dropped: Mapping[DropReason, int]
    waiting: int
    queued_bytes: int


class SpanExporter:
    """Delivers spans in a thread of its own, which starts with the first span.

    Args:
        settings: where to.
        queue_bytes: what may wait at most; a span is about 440 bytes.
        linger_seconds: how long a small request waits for company.
        give_up_seconds: how long one request is retried before it is dropped.
        backoff: between its attempts.
        transport: makes the connection.

    Raises:
        ExportSettingsError: a certificate or a key cannot be read.
    """

    def __init__(
        self,
        settings: ExportSettings,
        *,
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
        linger_seconds: float = _LINGER_SECONDS,
        give_up_seconds: float = _GIVE_UP_SECONDS,
        backoff: Backoff = _BACKOFF,
        transport: Callable[[ExportSettings], Transport] = connect,
    ) -> None:
        self._transport = transport(settings)
        self._report = _Report(settings.endpoint)
        self._limit_bytes = queue_bytes
        self._linger_seconds = linger_seconds
        self._give_up_seconds = give_up_seconds
        self._backoff = backoff
        self._changed = threading.Condition()
        # Everything below is read and written under `_changed`.
        self._queue: deque[Spans] = deque()
        self._queued_bytes = 0
        self._waiting = 0
        self._exported = 0
        self._dropped: dict[DropReason, int] = {}
        self._flushing = 0
        self._closed = False
        self._deadline = float("inf")
        self._thread: threading.Thread | None = None

    def offer(self, batch: Spans) -> None:
        """Take spans for delivery, or drop and count them when too much waits already."""
        size = batch.size_bytes
        with self._changed:
            if self._closed or self._queued_bytes + size > self._limit_bytes:
                self._drop("shutdown" if self._closed else "queue_full", batch.spans)
                return
            self._queue.append(batch)
            self._queued_bytes += size
            self._waiting += batch.spans
            if self._thread is None:
                self._start()
            if len(self._queue) == 1 or self._queued_bytes >= _REQUEST_BYTES:
                self._changed.notify_all()

    def counts(self) -> ExportCounts:
        """Return what became of the spans so far."""
        with self._changed:
            dropped = dict(self._dropped)
            return ExportCounts(self._exported, dropped, self._waiting, self._queued_bytes)

    def flush(self, deadline_seconds: float) -> bool:
        """Wait until nothing waits, at most so long; tell whether that came true. Blocks."""
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._waiting, deadline_seconds)
            self._flushing -= 1
            return done

    def close(self, deadline_seconds: float) -> bool:
        """Deliver what waits, at most so long; drop and count the rest. Blocks.

        Returns:
            Whether everything that waited was delivered or decided.
        """
        with self._changed:
            self._closed = True
            self._deadline = monotonic() + deadline_seconds
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._waiting, deadline_seconds)
            self._drop("shutdown", self._waiting)
            self._queue.clear()
            self._queued_bytes = self._waiting = 0
            self._changed.notify_all()
        return done

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="span-exporter", daemon=True)
        self._thread.start()

    def _drop(self, reason: DropReason, spans: int) -> None:
        if spans:
            self._dropped[reason] = self._dropped.get(reason, 0) + spans

    def _work(self) -> None:
        while taken := self._take():
            self._deliver(*self._joined(taken))
        self._transport.close()

    def _take(self) -> list[Spans]:
        """Wait for spans and take a request's worth; none when the exporter is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            self._changed.wait_for(self._enough, self._linger_seconds)
            taken: list[Spans] = []
            size = 0
            while self._queue and (not taken or size + self._queue[0].size_bytes <= _REQUEST_BYTES):
                taken.append(self._queue.popleft())
                size += taken[-1].size_bytes
            self._queued_bytes -= size
            return taken

    def _enough(self) -> bool:
        return self._queued_bytes >= _REQUEST_BYTES or self._flushing > 0 or self._closed

    def _joined(self, taken: list[Spans]) -> tuple[bytes, int]:
        """Join requests end to end, which is one request to a parser, and count their spans."""
        requests, spans = [], 0
        for batch in taken:
            try:
                requests.append(batch.request)
                spans += batch.spans
            except Exception as error:  # noqa: BLE001 - somebody's attribute; the others must go
                _LOG.warning("span_not_encoded", error=repr(error))
                self._settle("not_encoded", batch.spans)
        return b"".join(requests), spans

    def _deliver(self, request: bytes, spans: int) -> None:
        """Send one request until it is decided: taken, refused, or given up."""
        started = monotonic()
        attempt = 0
        while spans:
            answer = self._send(request)
            if not answer.problem:
                self._settle("rejected", spans, rejected=answer.rejected_spans)
                return self._report.delivered(self.counts().dropped)
            self._report.failing(answer.problem)
            if not answer.again:
                return self._settle("refused", spans)
            wait = answer.wait_seconds or self._backoff.delay_seconds(attempt)
            if not self._pause(wait, started + self._give_up_seconds):
                return self._settle("unreachable", spans)
            attempt += 1
        return None

    def _send(self, request: bytes) -> Answer:
        try:
            return self._transport.send(request)
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever it is
            return Answer(repr(error))

    def _settle(self, reason: DropReason, spans: int, rejected: int | None = None) -> None:
        """Count the spans of a decided request: all dropped, or all but the rejected exported."""
        with self._changed:
            if not self._waiting:  # close() gave them up meanwhile, and counted them
                return
            lost = spans if rejected is None else min(rejected, spans)
            self._drop(reason, lost)
            self._exported += spans - lost
            self._waiting -= spans
            self._changed.notify_all()

    def _pause(self, seconds: float, give_up_at: float) -> bool:
        """Wait before the next attempt; False when there is no time for one."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, min(seconds, give_up_at - monotonic()))
            if self._closed:
                self._changed.wait(_CLOSING_PAUSE_SECONDS)
            return monotonic() < min(give_up_at, self._deadline)


class _Report:
    """Says once that spans are not taken, once that they are again, and at times what was lost.

    Only the exporter's thread calls it: a log line must not cost the hop anything either.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._failing_since: float | None = None
        self._lost_told = 0
        self._told_at = float("-inf")

    def failing(self, problem: str) -> None:
        if self._failing_since is None:
            self._failing_since = monotonic()
            _LOG.warning("spans_not_exported", endpoint=self._endpoint, problem=problem)

    def delivered(self, dropped: Mapping[DropReason, int]) -> None:
        now = monotonic()
        lost = sum(dropped.values())
        if self._failing_since is not None:
            seconds = round(now - self._failing_since, 1)
            _LOG.info("spans_exported_again", endpoint=self._endpoint, after_seconds=seconds)
            self._failing_since = None
        if lost > self._lost_told and now - self._told_at >= _LOSS_LOG_SECONDS:
            _LOG.warning("spans_lost", spans=lost - self._lost_told, total=dict(dropped))
            self._lost_told, self._told_at = lost, now
