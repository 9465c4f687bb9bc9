"""Hop 2, reading: which rows are next, and how far the outbox was read."""
