"""A small shop: orders with lines, and the event of each order."""
