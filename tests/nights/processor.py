"""An order processor that somebody else wrote: librdkafka, and nothing of this project.

Run with one argument, a JSON object (see `Plan` in stage.py). What it took, answered and committed
it writes to a journal of its own, a JSON object a line: the truth that no command reads.
"""

import json
import os
import signal
import sys
import time
import uuid

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

POLL_SECONDS = 0.05
BATCH = 50


class Journal:
    """Lines that are there once the call has returned."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: PTH123, SIM115

    def write(self, what: str, **more: object) -> None:
        self._file.write(json.dumps({"at": time.time(), "what": what, **more}) + "\n")


def consumer_of(plan: dict) -> Consumer:
    config = {
        "bootstrap.servers": plan["bootstrap"],
        "group.id": plan["group"],
        "auto.offset.reset": plan["reset"],
        "enable.auto.commit": False,
        "topic.metadata.refresh.interval.ms": plan["metadata_ms"],
        "log_level": 0,
    }
    if plan["kind"] == "kip848":
        config["group.protocol"] = "consumer"
    elif plan["kind"] != "assign":
        config["session.timeout.ms"] = 6000
        config["heartbeat.interval.ms"] = 1000
    return Consumer(config)


def producer_of(plan: dict) -> Producer:
    config = {
        "bootstrap.servers": plan["bootstrap"],
        "partitioner": plan["partitioner"],
        "linger.ms": 0,
        "log_level": 0,
    }
    if plan["kind"] == "transactional":
        config["transactional.id"] = plan["transactional_id"]
        config["transaction.timeout.ms"] = 300_000
    producer = Producer(config)
    if plan["kind"] == "transactional":
        producer.init_transactions(60)
    return producer


def begin(consumer: Consumer, plan: dict, journal: Journal) -> None:
    if plan["kind"] != "assign":
        consumer.subscribe(
            [plan["events"]], on_assign=lambda _c, parts: journal.write("assigned", n=len(parts))
        )
        return
    numbers = consumer.list_topics(plan["events"], 20).topics[plan["events"]].partitions
    asked = [TopicPartition(plan["events"], number) for number in numbers]
    known = consumer.committed(asked, timeout=20)
    # Without an offset: as `auto.offset.reset` says, which -1001 stands for.
    consumer.assign(known)
    journal.write("assigned", n=len(known))


def answer_of(record, plan: dict) -> dict | None:
    """Return what is sent for an event: keyword arguments of `produce`; None: nothing."""
    order = record.key().decode()
    body = json.loads(record.value())
    headers = dict(record.headers() or [])
    if headers.get("ce_type") != b"order.placed":
        return None
    fault = plan["faults"].get(body.get("customer_id"), "none")
    if fault == "lose":
        return None
    status = {"only_begun": "processing", "odd_status": "shipped"}.get(fault, "confirmed")
    named = str(uuid.uuid4()) if fault == "names_nobody" else order
    value: dict = {"status": status}
    own = [("ce_causationid", headers.get("ce_id", b"")),
           ("traceparent", headers.get("traceparent", b""))]  # fmt: skip
    sent: dict = {"topic": plan["elsewhere"] if fault == "elsewhere" else plan["returns"]}
    style = plan["style"]
    if fault == "names_nobody":
        style = "headers"
    if style == "headers":
        cloud = [("ce_id", str(uuid.uuid4()).encode()), ("ce_source", b"/fulfilment"),
                 ("ce_type", b"order.returned"), ("ce_specversion", b"1.0")]  # fmt: skip
        sent |= {"key": named, "headers": [*cloud, ("ce_subject", named.encode()), *own]}
    elif style == "key":
        sent["key"] = named
    elif style == "capitals":
        sent["key"] = named.upper()
    elif style == "subject":
        sent["headers"] = [("ce_subject", named.encode())]
    if style in ("headers", "body", "customer"):
        value["order_id"] = named
    if style == "customer":
        sent["key"] = body.get("customer_id")
    text = json.dumps(value)
    sent["value"] = text[:-5] if fault == "torn" else text
    return sent


def answer(records: list, plan: dict, producer: Producer, journal: Journal) -> None:
    """Answer a batch; what the broker acknowledged stands in the journal."""
    for record in records:
        order = record.key().decode()
        sent = answer_of(record, plan)
        if sent is None:
            journal.write("lost", order=order)
            continue

        def acked(error, message, order=order) -> None:
            if error is None:
                journal.write("answered", order=order, topic=message.topic(),
                              partition=message.partition(), offset=message.offset())  # fmt: skip

        producer.produce(**sent, on_delivery=acked)
    producer.flush(30)


def die(plan: dict, where: str, records: list) -> None:
    """End as a power cut does, at a point that was drawn, once its customer's order came."""
    if plan["dies"] != where:
        return
    if any(json.loads(one.value()).get("customer_id") == plan["dies_for"] for one in records):
        os.kill(os.getpid(), signal.SIGKILL)


def work(records: list, plan: dict, consumer: Consumer, producer: Producer, log: Journal) -> None:
    offsets: dict = {}
    for record in records:
        log.write("took", order=record.key().decode(), partition=record.partition(),
                  offset=record.offset())  # fmt: skip
        offsets[record.topic(), record.partition()] = record.offset() + 1
    wanted = [TopicPartition(topic, number, at) for (topic, number), at in offsets.items()]
    die(plan, "took", records)
    if plan["kind"] == "transactional":
        producer.begin_transaction()
        answer(records, plan, producer, log)
        die(plan, "answered", records)
        producer.send_offsets_to_transaction(wanted, consumer.consumer_group_metadata(), 30)
        producer.commit_transaction(30)
    elif plan["commits"] == "before":
        consumer.commit(offsets=wanted, asynchronous=False)
        die(plan, "committed", records)
        answer(records, plan, producer, log)
    else:
        answer(records, plan, producer, log)
        die(plan, "answered", records)
        consumer.commit(offsets=wanted, asynchronous=False)
    log.write("done", orders=[one.key().decode() for one in records])


def main() -> None:
    plan = json.loads(sys.argv[1])
    log = Journal(plan["journal"])
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    consumer, producer = consumer_of(plan), producer_of(plan)
    begin(consumer, plan, log)
    while not ended:
        took = [one for one in consumer.consume(BATCH, POLL_SECONDS) if one.error() is None]
        if took:
            try:
                work(took, plan, consumer, producer, log)
            except KafkaException as error:
                log.write("failed", error=str(error))
                if plan["kind"] == "transactional":
                    raise
    consumer.close()
    log.write("ended")


if __name__ == "__main__":
    main()
