"""The worker's Prometheus metrics; their names are a contract, and no label's values grow with products or orders.

| metric | type | labels | what it says |
|---|---|---|---|
| `inventory_events_total` | counter | topic, type, outcome | events by disposition |
| `inventory_batch_size` | histogram | | records in one transaction |
| `inventory_batch_duration_seconds` | histogram | stage | duration of each stage of a batch |
| `inventory_consumer_lag_records` | gauge | topic, partition | records whose offset is not committed yet |
| `inventory_event_age_seconds` | histogram | | time from an event's occurred_at to its commit |
| `inventory_watermark_lag_seconds` | gauge | | how far the low watermark, by which holds expire, lags |
| `inventory_outbox_pending` | gauge | | outgoing events that Kafka has not acknowledged yet |
| `inventory_outbox_oldest_seconds` | gauge | | age of the oldest of them |
| `inventory_outbox_parked` | gauge | | outgoing events that Kafka will never accept (`inventory outbox list`) |
| `inventory_levels_published_total` | counter | | records written to `inventory.levels` |
| `inventory_levels_oldest_seconds` | gauge | | age of the oldest change that is not on `inventory.levels` yet |
| `inventory_dead_letters_total` | counter | topic, reason | dead letters, by the topic of the original record |
| `inventory_parked_events` | gauge | | payments, cancellations and refunds parked until their order is created |
| `inventory_reservations_expired_total` | counter | | holds of carts and orders that expired |
| `inventory_commit_lost_total` | counter | | offset commits lost to a rebalance; harmless, duplicates are suppressed |
| `inventory_stream_gap_records_total` | counter | topic | records that Kafka deleted before they were read |
| `inventory_clock_skew_seconds` | gauge | of | how far the worker's clock is ahead of another: `database` |
| `inventory_last_poll_timestamp_seconds` | gauge | | Unix time of the consumer's last poll |
| `inventory_low_stock_products` | gauge | | products at or below their threshold now |
| `inventory_cache_errors_total` | counter | | failed reads and writes of the cache; stock is not affected |
| `inventory_invariant_violations` | gauge | | violations that the last audit found; more than 0 is an alarm |
"""

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

# Without this, every counter and histogram would also export a `_created` series.
disable_created_metrics()  # type: ignore[no-untyped-call] # prometheus_client leaves this one untyped

EVENTS = Counter(
    "inventory_events_total",
    "Events by disposition: applied, duplicate, refused, parked, dead_lettered.",
    ("topic", "type", "outcome"),
)
BATCH_SIZE = Histogram(
    "inventory_batch_size",
    "Records in one transaction.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000),
)
BATCH_DURATION = Histogram(
    "inventory_batch_duration_seconds",
    "Duration of a batch by stage: decode, load, decide, save, commit, offsets, total.",
    ("stage",),
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
CONSUMER_LAG = Gauge(
    "inventory_consumer_lag_records", "Records whose offset is not committed yet.", ("topic", "partition")
)
EVENT_AGE = Histogram(
    "inventory_event_age_seconds",
    "Time from an event's occurred_at to its commit.",
    buckets=(0.005, 0.01, 0.02, 0.04, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400),
)
WATERMARK_LAG = Gauge(
    "inventory_watermark_lag_seconds",
    "How far the low watermark, by which holds expire, is behind the time of day.",
)
OUTBOX_PENDING = Gauge("inventory_outbox_pending", "Outgoing events that Kafka has not acknowledged yet.")
OUTBOX_OLDEST = Gauge(
    "inventory_outbox_oldest_seconds", "Age of the oldest outgoing event that Kafka has not acknowledged yet."
)
OUTBOX_PARKED = Gauge(
    "inventory_outbox_parked", "Outgoing events that Kafka will never accept (`inventory outbox list`)."
)
LEVELS_PUBLISHED = Counter("inventory_levels_published_total", "Records written to inventory.levels.")
LEVELS_OLDEST = Gauge(
    "inventory_levels_oldest_seconds", "Age of the oldest change that is not on inventory.levels yet."
)
DEAD_LETTERS = Counter(
    "inventory_dead_letters_total", "Dead letters, by the topic of the original record.", ("topic", "reason")
)
PARKED_EVENTS = Gauge(
    "inventory_parked_events", "Payments, cancellations and refunds parked until their order is created."
)
RESERVATIONS_EXPIRED = Counter("inventory_reservations_expired_total", "Holds of carts and orders that expired.")
COMMIT_LOST = Counter(
    "inventory_commit_lost_total",
    "Offset commits lost to a rebalance; harmless, their events are suppressed as duplicates.",
)
CLOCK_SKEW = Gauge("inventory_clock_skew_seconds", "How far the worker's clock is ahead of another: database.", ("of",))
GAP_RECORDS = Counter(
    "inventory_stream_gap_records_total", "Records that Kafka deleted before they were read.", ("topic",)
)
LAST_POLL = Gauge("inventory_last_poll_timestamp_seconds", "Unix time of the consumer's last poll.")
LOW_STOCK_PRODUCTS = Gauge("inventory_low_stock_products", "Products at or below their threshold now.")
CACHE_ERRORS = Counter(
    "inventory_cache_errors_total", "Failed reads and writes of the cache in Redis; stock is not affected."
)
INVARIANT_VIOLATIONS = Gauge(
    "inventory_invariant_violations", "Violations that the last audit found; more than 0 is an alarm."
)
