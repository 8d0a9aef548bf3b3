"""An open-loop generator: publishes at a fixed rate, however slow the consumer is. Runs in its own process.

Event n is due at `start + n / rate` on the monotonic clock. A generator that falls behind catches up at once. Latency
counts from when an event was due, so a stall counts for every event that it delayed.
"""

import sys
import time
from datetime import UTC, datetime

from confluent_kafka import Producer

from dev.benchmarks.backlog import QUIET
from dev.benchmarks.workload import record, steady

_WAIT_BELOW_SECONDS = 0.0005


def main() -> None:
    """Publish; arguments: servers, prefix, start on the monotonic clock, rate, count."""
    servers, prefix, start, rate, count = sys.argv[1:]
    workload = steady(int(count), int(rate))
    producer = Producer(
        {
            "bootstrap.servers": servers,
            **QUIET,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 0,
            "partitioner": "murmur2_random",
        }
    )
    # Connect and fetch the partitions before the first event is due.
    producer.list_topics(timeout=10)
    late = 0.0
    for number, draft in enumerate(workload.drafts()):
        if number == workload.events:
            break
        due = float(start) + number / int(rate)
        while (wait := due - time.monotonic()) > _WAIT_BELOW_SECONDS:
            producer.poll(0)
            time.sleep(wait)
        late = max(late, time.monotonic() - due)
        one = record(draft, event_id(number), datetime.now(UTC))
        producer.produce(
            prefix + one.topic, key=one.key, value=one.value, headers=list(one.headers), timestamp=one.timestamp_ms
        )
    if producer.flush(30):
        sys.exit("not every event was acknowledged within 30 s")
    # For the report: the generator's own delay is part of every latency.
    sys.stdout.write(f"{1000 * late:.3f}\n")


def event_id(number: int) -> str:
    """Return the id of the n-th event."""
    return f"arrival-{number}"


def number_of(id_: str) -> int:
    """Return the number of the event with this id."""
    return int(id_.rpartition("-")[2])


if __name__ == "__main__":
    main()
