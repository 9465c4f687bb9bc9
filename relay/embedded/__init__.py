"""Real PostgreSQL and Kafka in folders of their own, for the demo, the tests and development.

Nothing here is used in production. `Cluster` starts both for as long as a `with` block lasts;
`persistent` keeps them running between commands (`relay embedded up`).
"""

from relay.embedded.cluster import Cluster
from relay.embedded.errors import EmbeddedError
from relay.embedded.kafka import EmbeddedKafka
from relay.embedded.postgres import EmbeddedPostgres

__all__ = ["Cluster", "EmbeddedError", "EmbeddedKafka", "EmbeddedPostgres"]
