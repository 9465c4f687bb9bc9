"""Hops 3 to 5: transactions on Kafka that were begun and not ended: where, whose, and since when.

Invariant: reads only. That a transaction is open is known from the log itself (its last stable
offset lies before its end); what the coordinators do not say of it stays None.

Source: KIP-98 (transactions), KIP-664 (DescribeProducers, ListTransactions, DescribeTransactions).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from relay.diagnose.evidence.system_state import TransactionSeen
from relay.kafka.broker import Broker
from relay.kafka.failures import READING_FAILURES
from relay.kafka.partition import Partition
from relay.kafka.requests import (
    describe_producers_request,
    describe_transactions_request,
    list_transactions_request,
)
from relay.runtime.times import of_milliseconds

_OF_NO_TRANSACTION: Final = -1


async def open_transactions(
    broker: Broker, stable_ends: Mapping[Partition, int]
) -> dict[Partition, TransactionSeen]:
    """Return the first open transaction of each of these partitions, as far as anybody says.

    Args:
        broker: connected.
        stable_ends: of partitions whose last stable offset lies before their end.
    """
    found: dict[Partition, TransactionSeen] = {}
    for leader, partitions in broker.by_leader(stable_ends).items():
        found |= await _begun(broker, leader, partitions, stable_ends)
    ids = {one.producer_id for one in found.values() if one.producer_id is not None}
    whose = await _named(broker, ids) if ids else {}
    return {
        partition: replace(
            one,
            transactional_id=known.transactional_id,
            started_at=known.started_at,
            timeout_seconds=known.timeout_seconds,
        )
        if one.producer_id is not None and (known := whose.get(one.producer_id)) is not None
        else one
        for partition, one in found.items()
    }


async def _begun(
    broker: Broker, leader: int, partitions: list[Partition], stable_ends: Mapping[Partition, int]
) -> dict[Partition, TransactionSeen]:
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for topic, number in partitions:
        numbers[topic].append(number)
    found = {one: TransactionSeen(stable_ends[one]) for one in partitions}
    try:
        answer = await broker.send(describe_producers_request(list(numbers.items())), leader)
    except READING_FAILURES:
        return found
    for topic, described, _tags in answer.topics:
        for number, error, _message, producers, _more in described:
            started = [
                (start, producer_id, last_ms)
                for producer_id, _epoch, _sequence, last_ms, _coordinator, start, _rest in producers
                if start != _OF_NO_TRANSACTION
            ]
            if error:
                continue  # not permitted to see who it is
            if not started:
                del found[Partition(topic, number)]  # it has ended since
                continue
            start, producer_id, last_ms = min(started)
            found[Partition(topic, number)] = TransactionSeen(
                start, producer_id, last_record_at=of_milliseconds(last_ms)
            )
    return found


async def _named(broker: Broker, producer_ids: Iterable[int]) -> dict[int, TransactionSeen]:
    """Ask every coordinator for these producers' transactions; who may not be seen is absent."""
    wanted = sorted(producer_ids)
    found: dict[int, TransactionSeen] = {}
    for node in broker.client.cluster.brokers():
        try:
            listed = await broker.send(list_transactions_request(wanted), node.nodeId)
            names = [name for name, *_rest in listed.transactions or ()]
            if not names:
                continue
            described = await broker.send(describe_transactions_request(names), node.nodeId)
        except READING_FAILURES:
            continue
        for (
            error,
            name,
            _state,
            timeout_ms,
            started_ms,
            producer_id,
            *_rest,
        ) in described.transactions:
            if not error:
                found[producer_id] = TransactionSeen(
                    0, producer_id, name, of_milliseconds(started_ms), timeout_ms / 1000
                )
    return found
