"""All hops: evidence in, verdict and cause out: pure functions."""
