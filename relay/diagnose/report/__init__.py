"""A finding in words, for people and programs."""
