"""Reads the evidence: the database, Kafka, nothing else; it changes nothing."""
