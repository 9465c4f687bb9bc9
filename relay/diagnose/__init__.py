"""Finds what is absent: the hop where a return was lost, its cause, and the evidence."""
