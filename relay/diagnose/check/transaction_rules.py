"""Hops 3 and 5: transactions on the flow's topics that stay open: whoever reads waits for them.

Invariant: pure. A transaction of some seconds is how an exactly-once processor works; one that no
coordinator knows, or that is older than its own timeout, will never end by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from relay.diagnose.check.kafka_facts import KafkaFacts
from relay.diagnose.check.result import Result, failed, ok, unknown, warning
from relay.diagnose.evidence.system_state import TransactionSeen
from relay.diagnose.report.transactions import transaction_text
from relay.kafka.partition import Partition

_SHORT_SECONDS: Final = 10.0
# Coordinators look for what has timed out every ten seconds.
_TIMED_OUT_SECONDS: Final = 60.0


def judge_transactions(facts: KafkaFacts) -> Iterator[Result]:
    """Yield one result for the topics together, or one for each partition that is held up."""
    if "transactions" in facts.refused:
        yield unknown(
            "kafka.transactions", facts.refused["transactions"], "DESCRIBE and READ on the topics"
        )
        return
    found = [_one(one, seen, facts.asked_at) for one, seen in sorted(facts.transactions.items())]
    yield from found or [ok("kafka.transactions", "none is open")]


def _one(partition: Partition, seen: TransactionSeen, now: datetime) -> Result:
    topic, number = partition
    name = f"kafka.transactions:{topic}[{number}]"
    text = transaction_text(partition, seen)
    begun = seen.started_at or seen.last_record_at
    age = 0.0 if begun is None else (now - begun).total_seconds()
    if begun is not None and age < _SHORT_SECONDS:
        return ok(name, text)
    limit = (seen.timeout_seconds or 0.0) + _TIMED_OUT_SECONDS
    if seen.transactional_id is not None and age < limit:
        return warning(
            name,
            f"{text}: what stands behind it waits",
            "it ends with a commit, or when its timeout is over; see what its producer does",
        )
    return failed(
        name,
        f"{text}: nothing behind it is read, and it does not end by itself",
        f"kafka-transactions.sh --bootstrap-server ... abort --topic {topic} "
        f"--partition {number} --start-offset {seen.offset}",
    )
