"""All hops: which losses belong together, and what happened."""
