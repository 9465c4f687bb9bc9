"""Hop 2, ownership: which relay is the active one, and on which server."""
