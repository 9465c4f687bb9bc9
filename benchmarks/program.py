"""A program under measurement: started as its users start it, watched from outside."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psutil

BUILD = Path(__file__).resolve().parent.parent / ".build"
_SAMPLE_SECONDS = 0.05
_STOP_SECONDS = 20


class Program:
    """One process; `rss_bytes` and `peak_rss_bytes` are of it and its children.

    Attributes:
        started_at: Unix time.
        cpu_at_end: CPU-seconds, once it was stopped.
    """

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        folder = BUILD / "benchmarks"
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = folder / f"{re.sub(r'[^a-z]+', '-', name)}.log"
        self.peak_rss_bytes = 0
        self.rss_bytes = 0
        self.started_at = time.time()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self._stopped = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self._watch.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _sample(self) -> None:
        while not self._stopped.wait(_SAMPLE_SECONDS):
            with contextlib.suppress(psutil.Error):
                me = psutil.Process(self.pid)
                family = [me, *me.children(recursive=True)]
                self.rss_bytes = sum(one.memory_info().rss for one in family)
                self.peak_rss_bytes = max(self.peak_rss_bytes, self.rss_bytes)

    def stop(self) -> None:
        """End it as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, with_signal: signal.Signals) -> None:
        self._stopped.set()
        self._watch.join()
        if self.alive:
            self._process.send_signal(with_signal)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(signal.SIGTERM)
