"""Orders as early versions stored them, in the form that is read now.

Early versions stored the identities of judged facts in `seen` as a list, without digests; the id of a waiting refund as
`refund_id`; and seven counters per line, none of them for the units that refunds name.

One statement, in the transaction of `inventory migrate`: no worker can run before the last of these orders is
converted, so smaller steps would let none start earlier. It locks only the orders that it converts and blocks no
reader. If it fails, nothing has changed; run again, it finds only orders that still have the old form.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# The first seven counters keep their places: requested, cancelled, reserved, released, deducted, restocked and
# not_restocked; refunded and returned are added. Early versions counted a partial cancellation of a paid order in
# `restocked` alone, and a cancellation of the whole order by adding to `cancelled` what it put back.
#
# Today's rules put back what was given up, the larger of cancelled and refunded; early versions put back the sum. Where
# both count, one of them is raised to that sum, so that nothing is due before the next event.
#
# `by_cancellation` are the units that partial cancellations put back; NULL, where no refund was judged, means all.
_LINE = """
CREATE FUNCTION inventory_line_with_refunds(line json, status text, served boolean, by_cancellation bigint)
RETURNS json LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    counters bigint[] := translate(line::text, '[]', '{}')::bigint[];
    requested bigint := counters[1];
    cancelled bigint := counters[2];
    restocked bigint := counters[6];
    not_restocked bigint := counters[7];
    refunded bigint := 0;
    given_up bigint;
BEGIN
    IF cardinality(counters) <> 7 THEN
        RETURN line;
    END IF;
    IF status = 'deducted' THEN
        given_up := cancelled + restocked + not_restocked;
        refunded := restocked - least(by_cancellation, restocked) + not_restocked;
        -- The refund of units that a cancellation put back may still come, and must put nothing back again.
        IF refunded = restocked + not_restocked AND refunded > 0 THEN
            refunded := given_up;
        ELSE
            cancelled := given_up;
        END IF;
    ELSIF status = 'restocked' THEN
        refunded := requested - cancelled - least(by_cancellation, requested - cancelled - not_restocked);
        cancelled := requested;
    ELSIF status = 'released' AND served THEN
        refunded := not_restocked;
        cancelled := requested;
    END IF;
    counters[2] := cancelled;
    RETURN array_to_json(counters || refunded || 0::bigint);
END $$
"""

# The ledger says which units a partial cancellation put back: the entry has the id of its event. The ledger is read
# once, and only if an order judged both cancellations and refunds.
_CONVERT = """
WITH old AS MATERIALIZED (
    SELECT order_id, identities,
        EXISTS (SELECT FROM unnest(identities) i WHERE starts_with(i, 'refund:')) AS has_refunds
    FROM (
        SELECT order_id, CASE json_typeof(seen)
            WHEN 'array' THEN ARRAY(SELECT json_array_elements_text(seen)) ELSE '{}' END AS identities
        FROM orders
        WHERE json_typeof(seen) = 'array'
            OR EXISTS (SELECT FROM json_array_elements(waiting) fact WHERE fact -> 'business_id' IS NULL)
            OR EXISTS (SELECT FROM json_each(lines) line WHERE json_array_length(line.value) = 7)
    ) found
), by_cancellation AS MATERIALIZED (
    SELECT order_id, json_object_agg(product_id, units) AS units
    FROM (
        SELECT old.order_id, t.product_id, sum(t.quantity) AS units
        FROM old JOIN inventory_transactions t ON t.reference_id = old.order_id
        WHERE old.has_refunds AND t.reference_type = 'ORDER' AND t.type = 'IN'
            AND EXISTS (SELECT FROM unnest(old.identities) i WHERE starts_with(i, 'cancellation:')
                AND right(i, length(t.event_id) + 1) = ':' || t.event_id)
        GROUP BY old.order_id, t.product_id
    ) entries GROUP BY order_id
)
UPDATE orders o SET
    lines = coalesce((
        SELECT json_object_agg(product_id, inventory_line_with_refunds(line, o.status, o.paid AND NOT o.refused,
            CASE WHEN old.has_refunds THEN coalesce((b.units ->> product_id)::bigint, 0) END) ORDER BY place)
        FROM json_each(o.lines) WITH ORDINALITY AS l (product_id, line, place)), o.lines),
    seen = CASE json_typeof(o.seen) WHEN 'array' THEN (
        SELECT json_object_agg(identity, ''::text ORDER BY place)
        FROM json_array_elements_text(o.seen) WITH ORDINALITY AS s (identity, place)) ELSE o.seen END,
    waiting = (
        SELECT json_agg(CASE WHEN fact -> 'business_id' IS NOT NULL THEN fact ELSE json_build_object(
            'kind', fact -> 'kind', 'source', fact -> 'source', 'event_id', fact -> 'event_id',
            'occurred_at', fact -> 'occurred_at', 'traceparent', fact -> 'traceparent', 'lines', fact -> 'lines',
            'business_id', fact -> 'refund_id', 'restock', fact -> 'restock', 'returned', false) END ORDER BY place)
        FROM json_array_elements(o.waiting) WITH ORDINALITY AS w (fact, place))
FROM old LEFT JOIN by_cancellation b USING (order_id)
WHERE o.order_id = old.order_id
"""


def upgrade() -> None:
    """Convert the orders of the old form; all others are only read."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute(_LINE)
    op.execute(_CONVERT)
    op.execute("DROP FUNCTION inventory_line_with_refunds(json, text, boolean, bigint)")


def downgrade() -> None:
    """Change nothing: the program of revision 0006 reads the same form. There is no way back to the old one."""
