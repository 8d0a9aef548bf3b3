"""A large database: a million products with ten ledger entries each, as after years of operation.

Generated once in SQL and kept as a template; each run gets a copy.
"""

import asyncpg

from dev.benchmarks.comparison import Bench
from dev.benchmarks.servers import schema_fingerprint
from dev.benchmarks.workload import AMPLE_STOCK

# Entries in the order in which years of operation write them: every product's first, then every second. The primary
# key is added after loading, for speed; the triggers only forbid updates and deletes, so they can stay.
_PRODUCTS = """
INSERT INTO inventory (product_id, on_hand, reserved, low_stock_threshold, stock_status, alert_status,
    version, last_sequence, updated_at)
SELECT 'SKU-' || lpad(n::text, 7, '0'), $2::bigint * $3, 0, 10, 'ok', 'ok', $2, $2, now()
FROM generate_series(1, $1::bigint) n
"""
_ENTRIES = """
INSERT INTO inventory_transactions (product_id, sequence, type, quantity, on_hand_before, on_hand_after,
    reserved_before, reserved_after, reference_type, reference_id, event_id, occurred_at, recorded_at)
SELECT 'SKU-' || lpad(n::text, 7, '0'), $2::bigint, 'IN', $3::bigint, ($2 - 1) * $3::bigint, $2 * $3::bigint, 0, 0,
    'IMPORT', 'SKU-' || lpad(n::text, 7, '0'), 'delivery-' || $2::text || '-' || n::text, now(), now()
FROM generate_series(1, $1::bigint) n
"""
_NO_KEY = "ALTER TABLE inventory_transactions DROP CONSTRAINT pk_inventory_transactions"
_KEY = "ALTER TABLE inventory_transactions ADD CONSTRAINT pk_inventory_transactions PRIMARY KEY (product_id, sequence)"


async def large_template(bench: Bench, products: int, ledger: int) -> str:
    """Return the template with so many products and ledger entries; generates it unless an earlier run did."""
    name = f"bench_large_{products}_{ledger}_{schema_fingerprint()}"
    if bench.servers.has_template(name):
        return name
    each = max(ledger // products, 1)
    with bench.servers.new_template(name) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(_NO_KEY)
            await connection.execute(_PRODUCTS, products, each, AMPLE_STOCK // each)
            for sequence in range(1, each + 1):
                bench.progress("making the large ledger", (sequence - 1) * products, ledger)
                await connection.execute(_ENTRIES, products, sequence, AMPLE_STOCK // each)
            await connection.execute(_KEY)
            await connection.execute("VACUUM ANALYZE")
            bench.progress("making the large ledger", ledger, ledger)
        finally:
            await connection.close()
    return name
