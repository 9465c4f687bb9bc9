"""Hop 2, maintenance: partitions ahead, old ones away, a small ledger, retention."""
