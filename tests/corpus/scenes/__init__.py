"""The table of faults: every scene, every act, every fault with its label."""

from tests.corpus.scenes import (
    misdirected,
    own_broker,
    own_database,
    processes,
    refused,
    single,
    skipped,
    topics,
)

SCENES = (
    single.SCENE,
    own_broker.SCENE,
    skipped.SCENE,
    processes.SCENE,
    refused.SCENE,
    misdirected.SCENE,
    topics.SCENE,
    own_database.SCENE,
)
