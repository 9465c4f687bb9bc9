"""The operator's page, `relay web`: what the command line knows, to be looked at.

Invariant: it renders the read models of `relay.diagnose`, `relay.replay` and `relay.repair`; it has
no SQL and no verdict of its own. What others wrote is escaped by the templates, always.
"""
