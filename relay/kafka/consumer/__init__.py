"""Hop 5: reads a topic as a member of a consumer group, and starts where the database says."""
