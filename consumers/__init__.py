"""Hops 3 to 5: the confirmation consumer, and the sample order processor."""
