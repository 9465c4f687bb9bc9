"""Hop 2: reads committed rows of the outbox and publishes them, in order, at least once."""
