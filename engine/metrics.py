"""What the worker tells Prometheus; the names are a contract, and no label grows with products or orders.

| metric | type | labels | what it says |
|---|---|---|---|
| `inventory_events_total` | counter | topic, type, outcome | events by what became of them |
| `inventory_batch_size` | histogram | | records in one transaction |
| `inventory_batch_duration_seconds` | histogram | stage | time of decode, load, decide, save, commit, offsets, total |
| `inventory_consumer_lag_records` | gauge | topic, partition | records in Kafka that are not committed yet |
| `inventory_event_age_seconds` | histogram | | time from an event's occurred_at to its commit |
| `inventory_watermark_lag_seconds` | gauge | | how far the clock that holds expire by is behind the wall's |
| `inventory_outbox_pending` | gauge | | outgoing events not acknowledged by Kafka yet |
| `inventory_outbox_oldest_seconds` | gauge | | age of the oldest of them |
| `inventory_dead_letters_total` | counter | topic, reason | records given up, by the topic they came from |
| `inventory_parked_events` | gauge | | payments, cancellations and refunds that wait for their order |
| `inventory_reservations_expired_total` | counter | | holds of carts and orders that ran out |
| `inventory_commit_lost_total` | counter | | offset commits lost to a rebalance; harmless, duplicates are suppressed |
| `inventory_last_poll_timestamp_seconds` | gauge | | when the consumer last asked Kafka for records, in Unix time |
| `inventory_low_stock_products` | gauge | | products at or below their threshold now |
| `inventory_cache_errors_total` | counter | | failed writes and reads of Redis; stock stays right without it |
| `inventory_invariant_violations` | gauge | | disagreements that the last audit found; anything but 0 is an alarm |
"""

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

# The names above are all there is: without this every counter and histogram has a `_created` twin.
disable_created_metrics()  # type: ignore[no-untyped-call] # prometheus_client leaves this one untyped

EVENTS = Counter(
    "inventory_events_total",
    "Events by what became of them: applied, duplicate, refused, parked, dead_lettered.",
    ("topic", "type", "outcome"),
)
BATCH_SIZE = Histogram(
    "inventory_batch_size",
    "Records in one transaction.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000),
)
BATCH_DURATION = Histogram(
    "inventory_batch_duration_seconds",
    "Time of a batch by stage: decode, load, decide, save, commit, offsets, total.",
    ("stage",),
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
CONSUMER_LAG = Gauge(
    "inventory_consumer_lag_records", "Records in Kafka that are not committed yet.", ("topic", "partition")
)
EVENT_AGE = Histogram(
    "inventory_event_age_seconds",
    "Time from an event's occurred_at to its commit.",
    buckets=(0.005, 0.01, 0.02, 0.04, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400),
)
WATERMARK_LAG = Gauge(
    "inventory_watermark_lag_seconds",
    "How far the stream's clock, by which holds expire, is behind the wall's.",
)
OUTBOX_PENDING = Gauge("inventory_outbox_pending", "Outgoing events not acknowledged by Kafka yet.")
OUTBOX_OLDEST = Gauge("inventory_outbox_oldest_seconds", "Age of the oldest outgoing event not acknowledged yet.")
DEAD_LETTERS = Counter(
    "inventory_dead_letters_total", "Records given up, by the topic they came from.", ("topic", "reason")
)
PARKED_EVENTS = Gauge("inventory_parked_events", "Payments, cancellations and refunds that wait for their order.")
RESERVATIONS_EXPIRED = Counter("inventory_reservations_expired_total", "Holds of carts and orders that ran out.")
COMMIT_LOST = Counter(
    "inventory_commit_lost_total",
    "Offset commits lost to a rebalance; harmless, their events are suppressed as duplicates.",
)
LAST_POLL = Gauge(
    "inventory_last_poll_timestamp_seconds", "When the consumer last asked Kafka for records, in Unix time."
)
LOW_STOCK_PRODUCTS = Gauge("inventory_low_stock_products", "Products at or below their threshold now.")
CACHE_ERRORS = Counter(
    "inventory_cache_errors_total", "Failed writes and reads of Redis; stock stays right without it."
)
INVARIANT_VIOLATIONS = Gauge(
    "inventory_invariant_violations", "Disagreements that the last audit found; anything but 0 is an alarm."
)
