"""Hops 1 to 5: the map of the user's orders table: keys, columns, casts, times."""
