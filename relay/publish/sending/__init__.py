"""Hop 2, sending: pages become records, batches and acknowledgements."""
