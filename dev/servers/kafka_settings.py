"""The Apache Kafka that tests and laptops use: its version, and its settings however it runs."""

import re
from collections.abc import Mapping
from pathlib import Path

POM = Path(__file__).parent / "pom.xml"

_found = re.search(r"<kafka\.version>([\d.]+)</kafka\.version>", POM.read_text())
if _found is None:
    raise RuntimeError(f"{POM} does not name kafka.version")
VERSION = _found.group(1)

# A cluster id is 16 bytes in URL-safe base64; one fixed value, because these clusters never meet.
CLUSTER_ID = "aW52ZW50b3J5LXdvcmtlcg"

BROKER_SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "CLIENT",
    "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # One broker holds one copy of everything.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Few internal partitions: 50 of each take seconds to make and to recover on a small machine.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    # The first member of a group need not wait 3 s for others.
    "group.initial.rebalance.delay.ms": "0",
    # After a crash the broker may register again only when its former self has expired: 9 s by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # As the mock cluster does, so that a test means the same on both.
    "num.partitions": "4",
    "auto.create.topics.enable": "true",
    # A record larger than our own limit has to reach the worker to become a dead letter, which is larger again.
    "message.max.bytes": str(8 * 1024 * 1024),
    # Topics of finished tests give their files back.
    "file.delete.delay.ms": "1000",
}
