"""The SQL of the audit: each statement returns one row per violation of the checks in `storage.audit_checks`.

`BOUNDED` wraps each of them: `$1` is the maximum number of violations returned per check. In the statements on the
ledger, `$2` and `$3` bound a slice of product ids; in `ALERTS`, retention has deleted no row newer than `$2`.
"""

# The planner settings of the worker's pool suit lookups by key; these statements read whole tables. Each slice needs
# a plan of its own: a generic plan, with unknown bounds, would scan the whole ledger.
SETTINGS = """
SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on;
SET LOCAL enable_material = on; SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL work_mem = '64MB';
SET LOCAL statement_timeout = '{timeout}s'
"""

COUNTS = """
SELECT (SELECT count(*) FROM inventory) AS products, (SELECT count(*) FROM inventory_transactions) AS entries,
    (SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM carts) AS carts,
    (SELECT count(*) FROM parked_events) AS parked
"""
QUICK_COUNTS = """
SELECT (SELECT count(*) FROM inventory) AS products, 0 AS entries, 0 AS orders, 0 AS carts, 0 AS parked
"""

# Each statement below returns one row per violation: (name, product_id, order_id, cart_id, numbers).
BOUNDED = """
SELECT name, total, product_id, order_id, cart_id, numbers FROM (
    SELECT v.*, count(*) OVER (PARTITION BY name) AS total,
        row_number() OVER (PARTITION BY name ORDER BY product_id, order_id, cart_id, numbers::text) AS place
    FROM ({statement}) v (name, product_id, order_id, cart_id, numbers)
) numbered WHERE place <= $1
"""

# Counters are read as text first: a line that is not nine integers is a violation, and must not fail the statement.
_ORDER_LINES = r"""
order_lines AS (
    SELECT order_id, status, product_id, text, sound, c[1] AS requested, c[2] AS cancelled, c[3] AS reserved,
        c[4] AS released, c[5] AS deducted, c[6] AS restocked, c[7] AS withheld,
        c[8] AS refunded, c[9] AS returned, c[3] - c[4] - c[5] AS held
    FROM (
        SELECT order_id, status, product_id, text, sound,
            CASE WHEN sound THEN translate(text, '[]', '{}')::bigint[] ELSE '{0,0,0,0,0,0,0,0,0}' END AS c
        FROM (
            SELECT o.order_id, o.status, l.key AS product_id, l.value::text AS text,
                l.value::text ~ '^\s*\[(\s*-?\d{1,18}\s*,){8}\s*-?\d{1,18}\s*\]\s*$' AS sound
            FROM orders o CROSS JOIN LATERAL
                json_each(CASE WHEN json_typeof(o.lines) = 'object' THEN o.lines ELSE '{}' END) l
        ) texts
    ) counters
)
"""
_CART_LINES = r"""
cart_lines AS (
    SELECT cart_id, status, product_id, text, sound, CASE WHEN sound THEN text::bigint ELSE 0 END AS held
    FROM (
        SELECT c.cart_id, c.status, l.key AS product_id, l.value::text AS text,
            l.value::text ~ '^\d{1,18}$' AS sound
        FROM carts c CROSS JOIN LATERAL
            json_each(CASE WHEN json_typeof(c.held) = 'object' THEN c.held ELSE '{}' END) l
    ) texts
)
"""

STOCK = """
SELECT 'stock', product_id, NULL::text, NULL::text,
    json_build_object('on_hand', on_hand, 'reserved', reserved, 'threshold', low_stock_threshold)
FROM inventory WHERE NOT (0 <= reserved AND reserved <= on_hand AND 0 <= low_stock_threshold)
UNION ALL
SELECT 'status', product_id, NULL, NULL,
    json_build_object('available', available, 'threshold', low_stock_threshold, 'stock_status', stock_status,
        'should_be', due, 'alert_status', alert_status)
FROM (
    SELECT *, CASE WHEN available <= 0 THEN 'out' WHEN available > low_stock_threshold THEN 'ok' ELSE 'low' END AS due
    FROM inventory
) judged
WHERE stock_status <> due OR (due = 'ok') <> (alert_status = 'ok') OR (due = 'out' AND alert_status <> 'out')
"""

HOLDS = f"""
WITH {_ORDER_LINES}, {_CART_LINES}, holds AS (
    SELECT product_id, sum(held)::bigint AS held FROM (
        SELECT product_id, held FROM order_lines WHERE status = 'reserved'
        UNION ALL
        SELECT product_id, held FROM cart_lines WHERE status = 'active'
    ) open GROUP BY product_id
)
SELECT 'holds', product_id, NULL::text, NULL::text, json_build_object('reserved', i.reserved, 'held', h.held)
FROM inventory i FULL JOIN holds h USING (product_id)
WHERE coalesce(i.reserved, 0) <> coalesce(h.held, 0)
"""  # noqa: S608 - constants

_SLICE = "($2::text IS NULL OR product_id > $2) AND ($3::text IS NULL OR product_id <= $3)"

LEDGER_ENTRIES = f"""
SELECT v.name, e.product_id, CASE reference_type WHEN 'ORDER' THEN reference_id END,
    CASE reference_type WHEN 'CART' THEN reference_id END,
    json_build_object('sequence', sequence, 'previous_sequence', previous, 'type', type, 'quantity', quantity,
        'on_hand_before', on_hand_before, 'on_hand_after', on_hand_after,
        'reserved_before', reserved_before, 'reserved_after', reserved_after,
        'previous_on_hand', previous_on_hand, 'previous_reserved', previous_reserved)
FROM (
    SELECT *, sequence <> previous + 1 AS torn,
        (on_hand_before, reserved_before) IS DISTINCT FROM (previous_on_hand, previous_reserved) AS jumped,
        quantity <= 0 OR NOT CASE type
            WHEN 'IN' THEN on_hand_moved = quantity AND reserved_moved = 0
            WHEN 'OUT' THEN on_hand_moved = -quantity AND (reserved_moved = -quantity OR reserved_moved = 0)
            WHEN 'RESERVE' THEN on_hand_moved = 0 AND reserved_moved = quantity
            WHEN 'RELEASE' THEN on_hand_moved = 0 AND reserved_moved = -quantity
            WHEN 'ADJUST' THEN abs(on_hand_moved) = quantity AND reserved_moved = 0
            ELSE false
        END OR NOT (0 <= reserved_after AND reserved_after <= on_hand_after) AS untrue
    FROM (
        SELECT *, on_hand_after - on_hand_before AS on_hand_moved,
            reserved_after - reserved_before AS reserved_moved,
            lag(sequence, 1, 0::bigint) OVER entries AS previous,
            lag(on_hand_after, 1, 0::bigint) OVER entries AS previous_on_hand,
            lag(reserved_after, 1, 0::bigint) OVER entries AS previous_reserved
        FROM inventory_transactions WHERE {_SLICE}
        WINDOW entries AS (PARTITION BY product_id ORDER BY sequence)
    ) chained
) e CROSS JOIN LATERAL (VALUES
    ('ledger-sequence', torn), ('ledger-chain', jumped), ('ledger-entry', untrue)) v (name, wrong)
WHERE (torn OR jumped OR untrue) AND v.wrong
"""  # noqa: S608 - constants

_LEDGER_STOCK_NUMBERS = """
json_build_object('on_hand', i.on_hand, 'reserved', i.reserved, 'last_sequence', i.last_sequence,
    'ledger_on_hand', t.on_hand_after, 'ledger_reserved', t.reserved_after, 'ledger_sequence', t.sequence,
    'ledger_entries', t.entries)
"""
LEDGER_STOCK = f"""
SELECT 'ledger-stock', product_id, NULL::text, NULL::text, {_LEDGER_STOCK_NUMBERS}
FROM (SELECT * FROM inventory WHERE {_SLICE}) i
FULL JOIN (
    SELECT product_id, sequence, entries, on_hand_after, reserved_after
    FROM (
        SELECT product_id, count(*) AS entries, max(sequence) AS sequence
        FROM inventory_transactions WHERE {_SLICE} GROUP BY product_id
    ) counted JOIN inventory_transactions USING (product_id, sequence)
) t USING (product_id)
WHERE i.product_id IS NULL OR coalesce(t.entries, 0) <> i.last_sequence OR coalesce(t.sequence, 0) <> i.last_sequence
    OR coalesce(t.on_hand_after, 0) <> i.on_hand OR coalesce(t.reserved_after, 0) <> i.reserved
"""  # noqa: S608 - constants
LAST_ENTRY_STOCK = f"""
SELECT 'ledger-stock', i.product_id, NULL::text, NULL::text, {_LEDGER_STOCK_NUMBERS}
FROM inventory i LEFT JOIN LATERAL (
    SELECT sequence, on_hand_after, reserved_after, NULL::bigint AS entries FROM inventory_transactions t
    WHERE t.product_id = i.product_id ORDER BY sequence DESC LIMIT 1
) t ON true
WHERE coalesce(t.sequence, 0) <> i.last_sequence
    OR coalesce(t.on_hand_after, 0) <> i.on_hand OR coalesce(t.reserved_after, 0) <> i.reserved
"""  # noqa: S608 - constants

ORDERS = f"""
WITH {_ORDER_LINES}
SELECT 'order-lines', product_id, order_id, NULL::text, json_build_object('counters', text)
FROM order_lines
WHERE NOT (sound AND least(requested, cancelled, reserved, released, deducted, restocked, withheld) >= 0
    AND least(refunded, returned) >= 0
    AND cancelled <= requested AND released + deducted <= reserved AND restocked + withheld <= deducted
    AND refunded + returned <= requested AND withheld <= refunded + returned)
UNION ALL
SELECT 'order-lines', NULL, order_id, NULL, json_build_object('lines', left(lines::text, 200))
FROM orders WHERE json_typeof(lines) <> 'object'
UNION ALL
SELECT 'order-status', product_id, order_id, NULL, json_build_object('status', status, 'held', held)
FROM order_lines WHERE status <> 'reserved' AND held <> 0
UNION ALL
SELECT 'order-status', NULL, order_id, NULL,
    json_build_object('status', status, 'paid', paid, 'refused', refused, 'expires_at', expires_at)
FROM orders
WHERE (status = 'reserved') <> (expires_at IS NOT NULL) OR (status IN ('deducted', 'restocked') AND NOT paid)
    OR (status = 'rejected' AND NOT refused)
"""  # noqa: S608 - constants

# Units that a refund without restock takes off again count as deducted once more, and as reserved, though no entry
# reserves them. So only what is held is compared with the ledger, and the difference between restocked and deducted.
ORDER_LEDGER = f"""
WITH {_ORDER_LINES}, moved AS (
    SELECT reference_id AS order_id, product_id, sum(on_hand_after - on_hand_before)::bigint AS on_hand,
        sum(reserved_after - reserved_before)::bigint AS reserved
    FROM inventory_transactions WHERE reference_type = 'ORDER' GROUP BY reference_id, product_id
)
SELECT 'order-ledger', product_id, order_id, NULL::text,
    json_build_object('held', l.held, 'ledger_held', m.reserved, 'deducted', l.deducted, 'restocked', l.restocked,
        'ledger_out', -m.on_hand)
FROM order_lines l FULL JOIN moved m USING (order_id, product_id)
WHERE l.order_id IS NULL OR coalesce(m.on_hand, 0) <> l.restocked - l.deducted
    OR coalesce(m.reserved, 0) <> l.held
"""  # noqa: S608 - constants

CARTS = f"""
WITH {_CART_LINES}
SELECT 'cart-status', product_id, NULL::text, cart_id, json_build_object('status', status, 'held', text)
FROM cart_lines WHERE NOT sound OR status <> 'active'
UNION ALL
SELECT 'cart-status', NULL, NULL, cart_id,
    json_build_object('status', status, 'expires_at', expires_at, 'held', left(held::text, 200))
FROM carts WHERE json_typeof(held) <> 'object' OR (status = 'active') <> (expires_at IS NOT NULL)
"""  # noqa: S608 - constants

CART_LEDGER = f"""
WITH {_CART_LINES}, moved AS (
    SELECT reference_id AS cart_id, product_id, sum(on_hand_after - on_hand_before)::bigint AS on_hand,
        sum(reserved_after - reserved_before)::bigint AS reserved
    FROM inventory_transactions WHERE reference_type = 'CART' GROUP BY reference_id, product_id
)
SELECT 'cart-ledger', product_id, NULL::text, cart_id,
    json_build_object('held', l.held, 'ledger_held', m.reserved, 'ledger_out', -m.on_hand)
FROM cart_lines l FULL JOIN moved m USING (cart_id, product_id) LEFT JOIN carts c USING (cart_id)
WHERE c.status IS NULL OR coalesce(m.on_hand, 0) <> 0 OR coalesce(m.reserved, 0) <> coalesce(l.held, 0)
"""  # noqa: S608 - constants

PARKED = """
WITH waiting AS (
    SELECT o.order_id, f ->> 'source' AS source, f ->> 'event_id' AS event_id
    FROM orders o CROSS JOIN LATERAL
        json_array_elements(CASE WHEN json_typeof(o.waiting) = 'array' THEN o.waiting ELSE '[]' END) f
)
SELECT 'parked', NULL::text, coalesce(w.order_id, p.order_id), NULL::text,
    json_build_object('source', source, 'event_id', event_id, 'waits_in', w.order_id, 'parked_for', p.order_id)
FROM waiting w FULL JOIN parked_events p USING (source, event_id)
WHERE w.order_id IS DISTINCT FROM p.order_id
"""

# Positions decide, not times, which may repeat: only rows after the last one that is older than $2.
ALERTS = """
WITH alerts AS (
    SELECT aggregateid AS product_id, position, severity, lag(severity) OVER of_product AS before,
        row_number() OVER (PARTITION BY aggregateid ORDER BY position DESC) = 1 AS newest
    FROM (
        SELECT aggregateid, position, payload::json ->> 'severity' AS severity FROM outbox
        WHERE aggregatetype IN ('inventory.low_stock', 'inventory.stock_recovered')
            AND position > (SELECT coalesce(max(position), 0) FROM outbox WHERE created_at < $2)
    ) rows WINDOW of_product AS (PARTITION BY aggregateid ORDER BY position)
)
SELECT 'alerts', product_id, NULL::text, NULL::text,
    json_build_object('outbox_position', position, 'severity', severity, 'before', before,
        'alert_status', i.alert_status)
FROM alerts LEFT JOIN inventory i USING (product_id)
WHERE before = severity OR (before = 'out' AND severity = 'low')
    OR (newest AND severity IS DISTINCT FROM i.alert_status)
"""

SLICE_BOUNDARIES = """
SELECT product_id FROM (SELECT product_id, row_number() OVER (ORDER BY product_id) AS place FROM inventory) numbered
WHERE place % $1 = 0 ORDER BY product_id
"""
