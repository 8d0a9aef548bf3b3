"""The audit: stock, ledger, orders and carts must agree with each other.

`audit` reads everything in one snapshot; `quick_audit` reads what a running worker can afford: the stock, the
open holds and the newest ledger entry of each product. Both only read, and report each violation with its numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import asyncpg
import orjson

from storage.database import Connection

MAX_EXAMPLES = 20
# The ledger is read in slices of this many products: each is an index lookup, and progress can be shown in between.
PRODUCTS_PER_SLICE = 5_000
STATEMENT_TIMEOUT_SECONDS = 3600.0
QUICK_STATEMENT_TIMEOUT_SECONDS = 120.0

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, how many are done, and how many there are."""


class Check(StrEnum):
    """What an audit checks; the statements below name them by value."""

    STOCK = "stock"
    STATUS = "status"
    LEDGER_SEQUENCE = "ledger-sequence"
    LEDGER_CHAIN = "ledger-chain"
    LEDGER_ENTRY = "ledger-entry"
    LEDGER_STOCK = "ledger-stock"
    HOLDS = "holds"
    ORDER_LINES = "order-lines"
    ORDER_STATUS = "order-status"
    ORDER_LEDGER = "order-ledger"
    CART_STATUS = "cart-status"
    CART_LEDGER = "cart-ledger"
    PARKED = "parked"
    ALERTS = "alerts"


RULES: Mapping[Check, str] = {
    Check.STOCK: "0 <= reserved <= on_hand",
    Check.STATUS: "the stock status follows from available and threshold, and the last alert from the stock status",
    Check.LEDGER_SEQUENCE: "a product's entries are numbered 1, 2, 3 ... without holes",
    Check.LEDGER_CHAIN: "an entry starts from the stock that the one before it left, the first from zero",
    Check.LEDGER_ENTRY: "an entry changed the stock by what its type and quantity say",
    Check.LEDGER_STOCK: "the last entry leaves the current stock, and there are as many as the last sequence says",
    Check.HOLDS: "reserved is the sum of the holds of reserved orders and active carts",
    Check.ORDER_LINES: "the counters of a line are consistent with each other",
    Check.ORDER_STATUS: "only a reserved order holds stock, and it has a deadline",
    Check.ORDER_LEDGER: "the ledger's movements for an order add up to its lines' counters",
    Check.CART_STATUS: "only an active cart holds stock, and it has a deadline",
    Check.CART_LEDGER: "the ledger's movements for a cart add up to what it holds",
    Check.PARKED: "every waiting fact of an order has its parked event, and every parked event its waiting fact",
    Check.ALERTS: "no alert repeats the one before it, and the newest is the product's last alert status",
}
QUICK_CHECKS = (Check.STOCK, Check.STATUS, Check.LEDGER_STOCK, Check.HOLDS)

# The planner settings of the worker's pool suit lookups by key; these statements read whole tables. Each slice needs
# a plan of its own: a generic plan, with unknown bounds, would scan the whole ledger.
_SETTINGS = """
SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on;
SET LOCAL enable_material = on; SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL work_mem = '64MB';
SET LOCAL statement_timeout = '{timeout}s'
"""

_COUNTS = """
SELECT (SELECT count(*) FROM inventory) AS products, (SELECT count(*) FROM inventory_transactions) AS entries,
    (SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM carts) AS carts,
    (SELECT count(*) FROM parked_events) AS parked
"""
_QUICK_COUNTS = """
SELECT (SELECT count(*) FROM inventory) AS products, 0 AS entries, 0 AS orders, 0 AS carts, 0 AS parked
"""
# Which of the counts above says how many rows a check has read.
_COUNTED_BY: Mapping[Check, str] = {
    Check.STOCK: "products",
    Check.STATUS: "products",
    Check.LEDGER_SEQUENCE: "entries",
    Check.LEDGER_CHAIN: "entries",
    Check.LEDGER_ENTRY: "entries",
    Check.LEDGER_STOCK: "products",
    Check.HOLDS: "products",
    Check.ORDER_LINES: "orders",
    Check.ORDER_STATUS: "orders",
    Check.ORDER_LEDGER: "orders",
    Check.CART_STATUS: "carts",
    Check.CART_LEDGER: "carts",
    Check.PARKED: "parked",
    Check.ALERTS: "products",
}

# Each statement below returns one row per violation: (name, product_id, order_id, cart_id, numbers).
_BOUNDED = """
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

_STOCK = """
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

_HOLDS = f"""
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

_LEDGER_ENTRIES = f"""
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
_LEDGER_STOCK = f"""
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
_LAST_ENTRY_STOCK = f"""
SELECT 'ledger-stock', i.product_id, NULL::text, NULL::text, {_LEDGER_STOCK_NUMBERS}
FROM inventory i LEFT JOIN LATERAL (
    SELECT sequence, on_hand_after, reserved_after, NULL::bigint AS entries FROM inventory_transactions t
    WHERE t.product_id = i.product_id ORDER BY sequence DESC LIMIT 1
) t ON true
WHERE coalesce(t.sequence, 0) <> i.last_sequence
    OR coalesce(t.on_hand_after, 0) <> i.on_hand OR coalesce(t.reserved_after, 0) <> i.reserved
"""  # noqa: S608 - constants

_ORDERS = f"""
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
_ORDER_LEDGER = f"""
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

_CARTS = f"""
WITH {_CART_LINES}
SELECT 'cart-status', product_id, NULL::text, cart_id, json_build_object('status', status, 'held', text)
FROM cart_lines WHERE NOT sound OR status <> 'active'
UNION ALL
SELECT 'cart-status', NULL, NULL, cart_id,
    json_build_object('status', status, 'expires_at', expires_at, 'held', left(held::text, 200))
FROM carts WHERE json_typeof(held) <> 'object' OR (status = 'active') <> (expires_at IS NOT NULL)
"""  # noqa: S608 - constants

_CART_LEDGER = f"""
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

_PARKED = """
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

# Only rows newer than $2, which retention has not deleted from yet: those after the last older one.
_ALERTS = """
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

_BOUNDARIES = """
SELECT product_id FROM (SELECT product_id, row_number() OVER (ORDER BY product_id) AS place FROM inventory) numbered
WHERE place % $1 = 0 ORDER BY product_id
"""


class Violation(NamedTuple):
    """One violation: what it concerns, and the numbers that disagree."""

    product_id: str | None
    order_id: str | None
    cart_id: str | None
    numbers: Mapping[str, Any]


class CheckResult(NamedTuple):
    """What one check found. `checked` counts the rows it read; `examples` are at most `MAX_EXAMPLES`."""

    name: Check
    rule: str
    checked: int
    violations: int
    examples: tuple[Violation, ...]


class AuditTimeoutError(Exception):
    """A statement of the audit did not end in time."""


class AuditResult(NamedTuple):
    """What an audit found, per check."""

    checks: tuple[CheckResult, ...]

    @property
    def violations(self) -> int:
        """How many violations there are in all."""
        return sum(check.violations for check in self.checks)


async def audit(connection: Connection, alerts_since: datetime, progress: Progress | None = None) -> AuditResult:
    """Run all checks in one snapshot; alerts are checked from `alerts_since` on, where retention deleted none."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(_SETTINGS.format(timeout=int(STATEMENT_TIMEOUT_SECONDS)))
        bounds = [row[0] for row in await connection.fetch(_BOUNDARIES, PRODUCTS_PER_SLICE)]
        slices = list(zip([None, *bounds], [*bounds, None], strict=True))
        statements: list[tuple[str, Sequence[object]]] = [
            (_STOCK, ()),
            (_HOLDS, ()),
            *((statement, bounds) for bounds in slices for statement in (_LEDGER_ENTRIES, _LEDGER_STOCK)),
            (_ORDERS, ()),
            (_ORDER_LEDGER, ()),
            (_CARTS, ()),
            (_CART_LEDGER, ()),
            (_PARKED, ()),
            (_ALERTS, (alerts_since,)),
        ]
        findings = _Findings(tuple(RULES), await connection.fetchrow(_COUNTS, timeout=STATEMENT_TIMEOUT_SECONDS))
        for done, (statement, arguments) in enumerate(statements):
            if progress is not None:
                progress("auditing", done, len(statements))
            await findings.collect(connection, statement, arguments, STATEMENT_TIMEOUT_SECONDS)
        if progress is not None:
            progress("auditing", len(statements), len(statements))
    return findings.result()


async def quick_audit(connection: Connection) -> AuditResult:
    """Check the stock against the holds and each product's newest ledger entry, without scanning the ledger.

    Raises AuditTimeoutError where a statement does not end in time.
    """
    timeout = QUICK_STATEMENT_TIMEOUT_SECONDS
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(_SETTINGS.format(timeout=int(timeout)))
            findings = _Findings(QUICK_CHECKS, await connection.fetchrow(_QUICK_COUNTS, timeout=timeout))
            for statement in (_STOCK, _HOLDS, _LAST_ENTRY_STOCK):
                await findings.collect(connection, statement, (), timeout)
    except (TimeoutError, asyncpg.QueryCanceledError) as error:
        raise AuditTimeoutError from error
    return findings.result()


class _Findings:
    """Counts violations by check, and keeps the first few of each as examples."""

    def __init__(self, checks: Sequence[Check], counts: Mapping[str, int]) -> None:
        self._counts = counts
        self._totals = dict.fromkeys(checks, 0)
        self._examples: dict[Check, list[Violation]] = {check: [] for check in checks}

    async def collect(
        self, connection: Connection, statement: str, arguments: Sequence[object], timeout_seconds: float
    ) -> None:
        rows = await connection.fetch(
            _BOUNDED.format(statement=statement), MAX_EXAMPLES, *arguments, timeout=timeout_seconds
        )
        for name, total in {row[0]: row[1] for row in rows}.items():
            self._totals[Check(name)] += total
        for name, _, product_id, order_id, cart_id, numbers in rows:
            examples = self._examples[Check(name)]
            if len(examples) < MAX_EXAMPLES:
                examples.append(Violation(product_id, order_id, cart_id, orjson.loads(numbers)))

    def result(self) -> AuditResult:
        return AuditResult(
            tuple(
                CheckResult(check, RULES[check], self._counts[_COUNTED_BY[check]], total, tuple(self._examples[check]))
                for check, total in self._totals.items()
            )
        )
