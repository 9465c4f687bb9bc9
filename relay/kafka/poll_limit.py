"""Hops 3 to 5: how much of what was fetched a consumer takes at once.

Invariant: one poll brings `POLL_BYTES` and one record more at most, whatever its records are: two
thousand of a megabyte each would be two gigabytes. Of all partitions together one large batch is
kept decompressed at a time; what a poll leaves of it is fetched anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.consumer.fetcher import FetchResult

POLL_BYTES: Final = 2 * 1024 * 1024
# What Python makes of a header, beside its text.
_HEADER_OBJECT_BYTES: Final = 150

Trim = Callable[[Any], Any]

_trims: dict[str, Trim] = {}


def trim_records(topic: str, trim: Trim) -> None:
    """Have each record of a topic made smaller as soon as it is read, by all consumers here.

    Args:
        topic: whose records.
        trim: returns the record, or what is to be kept of it.
    """
    _trims[topic] = trim


@dataclass(slots=True)
class _Room:
    """What is left of a poll's bytes; a poll looks at all partitions without waiting in between."""

    left: int = POLL_BYTES
    renewing: bool = False

    def renew(self) -> None:
        self.left, self.renewing = POLL_BYTES, False

    def take(self, size: int) -> None:
        self.left -= size
        if not self.renewing:
            self.renewing = True
            asyncio.get_running_loop().call_soon(self.renew)


_room = _Room()


class BoundedResult(FetchResult):  # type: ignore[misc]
    """As aiokafka's FetchResult: the records of one partition that wait to be taken."""

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Any]:
        """Take records, as many as there is room for."""
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        taken: list[Any] = []
        room = _room.left
        if room <= 0:
            return taken
        trim, size = _trims.get(self._topic_partition.topic), 0
        for found in self._partition_records:
            record = found if trim is None else trim(found)
            taken.append(record)
            size += _bytes_of(record)
            if size >= room or len(taken) == max_records:
                self._update_position()
                if self._partition_records._records.held_bytes:  # noqa: SLF001
                    self._let_go()
                break
        else:
            self._update_position()
            self._partition_records = None
        _room.take(size)
        return taken

    def _let_go(self) -> None:
        """Free the decompressed batch now: it is in a cycle, which is looked for now and then."""
        pending, self._partition_records = self._partition_records, None
        pending._records_iterator.close()  # noqa: SLF001
        pending._records_iterator = None  # noqa: SLF001


def _bytes_of(record: Any) -> int:
    headers = record.headers
    size = len(record.value or b"") + len(record.key or b"")
    if headers:
        size += _HEADER_OBJECT_BYTES * len(headers)
    return size
