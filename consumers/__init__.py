"""Hops 3 to 5: the confirmation consumer, and the sample order processor.

Imported as `relay.consumers`, through a link in `relay/` (docs/adr/0014).
"""
