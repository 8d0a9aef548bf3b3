"""What `inventory api` reports to Prometheus; routes are templates, so no label grows with ids.

| metric | type | labels | what it says |
|---|---|---|---|
| `inventory_http_requests_total` | counter | route, method, status | requests by how they were answered |
| `inventory_http_request_duration_seconds` | histogram | route, method | time to the answer, streams and waits aside |
| `inventory_http_batch_size` | histogram | | writes that shared one transaction |
| `inventory_http_queued_writes` | gauge | | writes that wait or are under way |
| `inventory_http_watches` | gauge | | streams and requests that wait for a change |
| `inventory_http_watched_products` | gauge | | distinct products that they watch |
| `inventory_http_rejected_tokens_total` | counter | reason | tokens that were not accepted, by the reason |
"""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "inventory_http_requests_total", "Requests by how they were answered.", ("route", "method", "status")
)
REQUEST_DURATION = Histogram(
    "inventory_http_request_duration_seconds",
    "Time to the answer, streams and waits aside.",
    ("route", "method"),
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
BATCH_SIZE = Histogram(
    "inventory_http_batch_size",
    "Writes that shared one transaction.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
QUEUED_WRITES = Gauge("inventory_http_queued_writes", "Writes that wait or are under way.")
WATCHES = Gauge("inventory_http_watches", "Streams and requests that wait for a change.")
WATCHED_PRODUCTS = Gauge("inventory_http_watched_products", "Distinct products that streams and waits watch.")
REJECTED_TOKENS = Counter(
    "inventory_http_rejected_tokens_total", "Tokens that were not accepted, by the reason.", ("reason",)
)
