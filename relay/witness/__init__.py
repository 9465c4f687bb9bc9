"""Hop 2 when somebody else publishes: what stands in Kafka is written into the delivery ledger."""
