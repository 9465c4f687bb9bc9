"""What every hop tells the outside: spans, metrics and logs; none of it may stop a hop."""
