"""A canary: one event of no order, sent through the hops and timed.

`run.py` is the entry; `publishing.py` follows it into Kafka, `returning.py` back from there.
"""
