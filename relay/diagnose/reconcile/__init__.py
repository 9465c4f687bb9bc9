"""Hops 1, 2, 4 and 5: database against Kafka against status, row by row: it proves, or lists.

Nothing is sampled. What can no longer be proven (a record past the topic's retention) is counted as
such, and is never called proven or lost.
"""
