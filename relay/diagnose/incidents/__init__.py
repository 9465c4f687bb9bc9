"""Which losses belong together, and what happened."""
