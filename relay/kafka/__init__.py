"""Kafka's language, for every hop: requests, records, topics, groups, ranges, and the consumer."""
