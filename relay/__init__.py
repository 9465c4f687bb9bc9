"""outbox-relay: publishes an order service's outbox, confirms the returns, finds the lost ones."""
