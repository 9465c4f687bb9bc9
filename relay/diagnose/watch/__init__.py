"""All hops: the watchdog: positions, overdue orders, late returns."""
