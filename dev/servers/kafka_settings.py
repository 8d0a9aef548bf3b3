"""Version and settings of the Apache Kafka that tests and laptops use, in Docker or on the JVM."""

import re
from collections.abc import Mapping
from pathlib import Path

POM = Path(__file__).parent / "pom.xml"

_found = re.search(r"<kafka\.version>([\d.]+)</kafka\.version>", POM.read_text())
if _found is None:
    raise RuntimeError(f"{POM} does not name kafka.version")
VERSION = _found.group(1)

# 16 bytes in URL-safe base64. One fixed value is enough: these clusters never share nodes.
CLUSTER_ID = "aW52ZW50b3J5LXdvcmtlcg"

BROKER_SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "CLIENT",
    "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # A single broker cannot hold replicas.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Few internal partitions: the default of 50 takes seconds to create and to recover.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    # The first member of a group does not wait 3 s for others.
    "group.initial.rebalance.delay.ms": "0",
    # After a crash a broker can register again only when its old session has expired: 9 s by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # As in the mock cluster, so that tests behave the same on both.
    "num.partitions": "4",
    "auto.create.topics.enable": "true",
    # Records above our own limit must reach the worker to be dead-lettered, and their dead letters are larger still.
    "message.max.bytes": str(8 * 1024 * 1024),
    # Remove the files of deleted topics soon.
    "file.delete.delay.ms": "1000",
}
