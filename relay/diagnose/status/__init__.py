"""How each hop stands now: what waits, since when, at what rate, and who runs it."""
