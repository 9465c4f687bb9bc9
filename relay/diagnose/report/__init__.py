"""All hops: a finding in words, for people and programs."""
