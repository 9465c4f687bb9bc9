"""Missed events again: what is selected, planned, sent, and what came of it."""
