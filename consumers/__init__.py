"""Hop 5: the confirmation consumer.

Imported as `relay.consumers`, through a link in `relay/` (docs/adr/0014).
"""
