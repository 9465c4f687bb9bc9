"""Hop 1 for Django: `append` on the current connection, inside `atomic`.

With `relay.outbox.django` in INSTALLED_APPS come an unmanaged model (`models.OutboxEvent`), a
migration that makes the schema (so that `manage.py test` works), and a system check.
"""

from relay.outbox.django.appending import append

__all__ = ["append"]
