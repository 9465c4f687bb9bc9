"""Hop 5: what a return is, read out of a record whoever wrote it."""
