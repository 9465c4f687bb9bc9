"""Hops 3-4: the sample order processor, with faults on request."""
