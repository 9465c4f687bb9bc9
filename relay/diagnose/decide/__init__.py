"""Evidence in, verdict and cause out: pure functions."""
