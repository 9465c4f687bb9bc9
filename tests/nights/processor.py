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
TWICE = ("twice", "contradicts")
# By customer, the event whose answer waits for that of its neighbour.
HELD_BACK: dict = {}


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
        "auto.offset.reset": "earliest",
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


def skip_to_end(consumer: Consumer, topic: str) -> None:
    """What `auto.offset.reset=latest` comes to for a group without offsets."""
    numbers = consumer.list_topics(topic, 20).topics[topic].partitions
    asked = [TopicPartition(topic, number) for number in numbers]
    for one in asked:
        _, one.offset = consumer.get_watermark_offsets(one, 20)
    consumer.commit(offsets=asked, asynchronous=False)


def begin(consumer: Consumer, plan: dict, journal: Journal) -> None:
    if plan["begins"] == "latest":
        skip_to_end(consumer, plan["events"])
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


def status_of(fault: str, *, again: bool) -> str:
    if fault == "contradicts" and again:
        return "rejected"
    return {"only_begun": "processing", "odd_status": "shipped"}.get(fault, "confirmed")


def names(style: str, order: str, customer: str, headers: dict) -> dict:
    """Return how a return says whose it is: key and headers."""
    if style == "headers":
        said = [("ce_id", str(uuid.uuid4()).encode()), ("ce_source", b"/fulfilment"),
                ("ce_type", b"order.returned"), ("ce_specversion", b"1.0"),
                ("ce_subject", order.encode()),
                ("ce_causationid", headers.get("ce_id", b"")),
                ("traceparent", headers.get("traceparent", b""))]  # fmt: skip
        return {"key": order, "headers": said}
    if style == "subject":
        return {"headers": [("ce_subject", order.encode())]}
    keys = {"key": order, "capitals": order.upper(), "customer": customer}
    return {"key": keys[style]} if style in keys else {}


def answer_of(record, plan: dict, *, again: bool = False) -> dict | None:
    """Return what is sent for an event: keyword arguments of `produce`; None: nothing.

    `again`: what is sent for it the second time.
    """
    order, body = record.key().decode(), json.loads(record.value())
    headers = dict(record.headers() or [])
    customer = body.get("customer_id")
    fault = plan["faults"].get(customer, "none")
    if headers.get("ce_type", b"").decode() not in plan["answers"] or fault == "lose":
        return None
    named, style = order, plan["style"]
    if fault == "names_nobody":
        named, style = str(uuid.uuid4()), "headers"
    value = {"status": status_of(fault, again=again)}
    if style in ("headers", "body", "customer"):
        value["order_id"] = named
    text = json.dumps(value)
    sent = names(style, named, customer, headers)
    sent["topic"] = plan["elsewhere"] if fault == "elsewhere" else plan["returns"]
    sent["value"] = {"torn": text[:-5], "tombstone": None}.get(fault, text)
    if fault == "odd_time":
        sent["timestamp"] = int((time.time() - 7200) * 1000)
    return sent


def fault_of(record, plan: dict) -> str | None:
    return plan["faults"].get(json.loads(record.value()).get("customer_id"))


def swapped(record, plan: dict) -> list:
    """Return the answers of a pair, each with the other's body; the first of a pair has to wait."""
    customer = json.loads(record.value())["customer_id"]
    first = HELD_BACK.pop(customer, None)
    if first is None:
        HELD_BACK[customer] = record
        return []
    return [
        names("headers", one.key().decode(), customer, dict(one.headers() or []))
        | {"topic": plan["returns"],
           "value": json.dumps({"status": "confirmed", "order_id": other.key().decode()})}
        for one, other in ((first, record), (record, first))
    ]  # fmt: skip


def answer(records: list, plan: dict, producer: Producer, journal: Journal) -> None:
    """Answer a batch; what the broker acknowledged stands in the journal."""
    for record in records:
        order = record.key().decode()
        if fault_of(record, plan) == "swaps":
            for one in swapped(record, plan):
                producer.produce(**one)
            continue
        sent = answer_of(record, plan)
        if sent is None:
            journal.write("lost", order=order)
            continue

        def acked(error, message, order=order) -> None:
            if error is None:
                journal.write("answered", order=order, topic=message.topic(),
                              partition=message.partition(), offset=message.offset())  # fmt: skip

        producer.produce(**sent, on_delivery=acked)
        if fault_of(record, plan) in TWICE:
            producer.produce(**answer_of(record, plan, again=True), on_delivery=acked)
    producer.flush(30)


def die(plan: dict, where: str, records: list, log: Journal) -> None:
    """End as a power cut does, or freeze, at a point that was drawn, at one customer's order."""
    if plan["dies"] != where:
        return
    if any(json.loads(one.value()).get("customer_id") == plan["dies_for"] for one in records):
        log.write("ends", at=where)
        os.kill(os.getpid(), signal.SIGSTOP if plan["dies_how"] == "frozen" else signal.SIGKILL)


def work(records: list, plan: dict, consumer: Consumer, producer: Producer, log: Journal) -> None:
    offsets: dict = {}
    for record in records:
        log.write("took", order=record.key().decode(), partition=record.partition(),
                  offset=record.offset())  # fmt: skip
        offsets[record.topic(), record.partition()] = record.offset() + 1
    wanted = [TopicPartition(topic, number, at) for (topic, number), at in offsets.items()]
    die(plan, "took", records, log)
    if plan["kind"] == "transactional":
        producer.begin_transaction()
        answer(records, plan, producer, log)
        die(plan, "answered", records, log)
        producer.send_offsets_to_transaction(wanted, consumer.consumer_group_metadata(), 30)
        producer.commit_transaction(30)
    elif plan["commits"] == "before":
        consumer.commit(offsets=wanted, asynchronous=False)
        die(plan, "committed", records, log)
        answer(records, plan, producer, log)
    else:
        answer(records, plan, producer, log)
        die(plan, "answered", records, log)
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
                if any(fault_of(one, plan) == "pauses" for one in took):
                    consumer.pause(consumer.assignment())
                    log.write("paused")
            except KafkaException as error:
                log.write("failed", error=str(error))
                if plan["kind"] == "transactional":
                    raise
    consumer.close()
    log.write("ended")


if __name__ == "__main__":
    main()
