"""The watchdog: positions, overdue orders, late returns."""
