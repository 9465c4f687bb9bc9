"""Hop 5: the confirmation consumer: a batch of returns, one transaction."""
