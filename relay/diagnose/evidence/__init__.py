"""Everything known of an order and of what is around it; values only."""
