"""Hops 2 to 5: what of a broker's own settings and clock would stop, skip or confuse consumers.

Invariant: pure. These take rights on the cluster that the services need not have: what may not be
asked is a warning, not a failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from relay.diagnose.check.kafka_facts import KafkaFacts
from relay.diagnose.check.result import CLOCK_TOLERANCE_SECONDS, Result, failed, ok, warning

_DAY_MINUTES: Final = 1440
_OFFSETS_MINUTES: Final = _DAY_MINUTES


@dataclass(frozen=True, slots=True)
class KafkaNeeds:
    """What our own settings need of the broker.

    Attributes:
        outbox_days: how long events can be replayed from the outbox.
        batch_bytes: the largest batch that the relay sends.
        session_seconds: after so long Kafka is to give up a silent consumer of ours.
        inbox_days: how long returns are remembered.
    """

    outbox_days: int
    batch_bytes: int
    session_seconds: float
    inbox_days: int


def judge_broker(facts: KafkaFacts, needs: KafkaNeeds) -> list[Result]:
    """Return the checks of the broker itself."""
    return [*_consumers(facts, needs), _clock(facts)]


def _consumers(facts: KafkaFacts, needs: KafkaNeeds) -> Iterator[Result]:
    """Judge what a broker's settings do to consumers: ours, and the processor's."""
    settings = facts.broker_settings
    if not settings:
        why = facts.refused.get("settings", "it does not say")
        fix = _cluster_acl("DESCRIBE_CONFIGS")
        yield warning("kafka.broker_settings", f"not known: {why}", fix)
        return
    low = int(settings.get("group.min.session.timeout.ms", "6000")) / 1000
    high = int(settings.get("group.max.session.timeout.ms", "1800000")) / 1000
    name = "kafka.session_timeout"
    if low <= needs.session_seconds <= high:
        yield ok(name, f"{needs.session_seconds:g} s, {low:g} to {high:g} are allowed")
    else:
        yield failed(
            name,
            f"{needs.session_seconds:g} s: the broker allows {low:g} to {high:g}, and takes no "
            "other member into a group",
            f"RELAY_CONFIRM_SESSION_TIMEOUT_SECONDS={min(max(needs.session_seconds, low), high):g}",
        )
    minutes = int(settings.get("offsets.retention.minutes", "10080"))
    name = "kafka.offsets_retention"
    if minutes >= _OFFSETS_MINUTES:
        yield ok(name, f"{minutes / _DAY_MINUTES:g} days")
    else:
        yield warning(
            name,
            f"{minutes / _DAY_MINUTES:.2g} days: a processor that is away longer begins anew, at "
            "the end (events are skipped) or at the start (they are processed again)",
            "offsets.retention.minutes=10080 on every broker",
        )


def _clock(facts: KafkaFacts) -> Result:
    name = "clock.broker"
    if facts.clock_offset is None:
        why = facts.refused.get("clock", "it does not say")
        fix = f"{_cluster_acl('DESCRIBE')}; it takes Kafka 3.3 with KRaft"
        return warning(name, f"not known: {why}", fix)
    seconds = facts.clock_offset.total_seconds()
    if abs(seconds) <= CLOCK_TOLERANCE_SECONDS:
        return ok(name, f"agrees with this machine's [{seconds:+.3f} s]")
    return warning(
        name,
        f"differs from this machine's [{seconds:+.1f} s]",
        "let both follow a time server: returns are looked for by their records' times",
    )


def _cluster_acl(operation: str) -> str:
    return (
        "kafka-acls.sh --bootstrap-server ... --add --allow-principal User:... "
        f"--operation {operation} --cluster"
    )
