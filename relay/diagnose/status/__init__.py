"""All hops: how each stands now: what waits, since when, at what rate, and who runs it."""
