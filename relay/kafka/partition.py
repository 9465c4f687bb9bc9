"""Every hop: what a partition is called; pure."""

Partition = tuple[str, int]
"""A topic's name and a partition's number."""
