"""Hop 5: the three ways to write returns to the orders, and the inbox."""
