"""The tables of the inventory worker.

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Ids are compared byte by byte (COLLATE "C"): cheaper than a language's collation, and the order in which
# the worker sorts keys before it locks them. Lines are json, not jsonb, which keeps them in the event's order;
# outcomes list them in that order. The server sets the times of writing (DEFAULT now()): a default costs a
# twentieth of a timestamp sent with every row. Fill factors leave room for updates in place (HOT).
_UPGRADE = (
    """
    CREATE TABLE inventory (
        product_id text COLLATE "C" CONSTRAINT pk_inventory PRIMARY KEY,
        on_hand bigint NOT NULL,
        reserved bigint NOT NULL,
        available bigint NOT NULL GENERATED ALWAYS AS (on_hand - reserved) STORED,
        low_stock_threshold bigint NOT NULL,
        stock_status text NOT NULL,
        alert_status text NOT NULL,
        version bigint NOT NULL,
        last_sequence bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT ck_inventory_reserved CHECK (0 <= reserved AND reserved <= on_hand),
        CONSTRAINT ck_inventory_threshold CHECK (0 <= low_stock_threshold),
        CONSTRAINT ck_inventory_stock_status CHECK (stock_status IN ('ok', 'low', 'out')),
        CONSTRAINT ck_inventory_alert_status CHECK (alert_status IN ('ok', 'low', 'out'))
    ) WITH (fillfactor = 50)
    """,
    "CREATE INDEX ix_inventory_not_ok ON inventory (product_id) WHERE stock_status <> 'ok'",
    """
    CREATE TABLE inventory_transactions (
        product_id text COLLATE "C" NOT NULL,
        sequence bigint NOT NULL,
        type text NOT NULL,
        quantity bigint NOT NULL,
        on_hand_before bigint NOT NULL,
        on_hand_after bigint NOT NULL,
        reserved_before bigint NOT NULL,
        reserved_after bigint NOT NULL,
        reference_type text NOT NULL,
        reference_id text COLLATE "C" NOT NULL,
        operator text,
        reason text,
        event_id text COLLATE "C" NOT NULL,
        occurred_at timestamptz NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_inventory_transactions PRIMARY KEY (product_id, sequence),
        CONSTRAINT ck_inventory_transactions_sequence CHECK (sequence > 0),
        CONSTRAINT ck_inventory_transactions_quantity CHECK (quantity > 0),
        CONSTRAINT ck_inventory_transactions_type
            CHECK (type IN ('IN', 'OUT', 'RESERVE', 'RELEASE', 'ADJUST')),
        CONSTRAINT ck_inventory_transactions_reference_type
            CHECK (reference_type IN ('ORDER', 'CART', 'MANUAL', 'IMPORT')),
        CONSTRAINT ck_inventory_transactions_after
            CHECK (0 <= reserved_after AND reserved_after <= on_hand_after)
    )
    """,
    """
    CREATE FUNCTION inventory_ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the ledger is append-only: correct it with an adjustment'
            USING ERRCODE = 'restrict_violation';
    END $$
    """,
    """
    CREATE TRIGGER tr_inventory_transactions_append_only
        BEFORE UPDATE OR DELETE OR TRUNCATE ON inventory_transactions
        FOR EACH STATEMENT EXECUTE FUNCTION inventory_ledger_is_append_only()
    """,
    """
    CREATE TABLE orders (
        order_id text COLLATE "C" CONSTRAINT pk_orders PRIMARY KEY,
        status text NOT NULL,
        user_id text,
        cart_id text,
        lines json NOT NULL,
        paid boolean NOT NULL,
        refused boolean NOT NULL,
        waiting json,
        seen json,
        expires_at timestamptz,
        version bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT ck_orders_status CHECK (status IN
            ('pending', 'reserved', 'rejected', 'deducted', 'expired', 'released', 'restocked'))
    ) WITH (fillfactor = 70)
    """,
    "CREATE INDEX ix_orders_due ON orders (expires_at) WHERE status = 'reserved'",
    """
    CREATE TABLE carts (
        cart_id text COLLATE "C" CONSTRAINT pk_carts PRIMARY KEY,
        status text NOT NULL,
        user_id text,
        held json NOT NULL,
        snapshot_version bigint,
        as_of timestamptz,
        converted_at timestamptz,
        expires_at timestamptz,
        version bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT ck_carts_status CHECK (status IN ('active', 'emptied', 'converted', 'expired'))
    ) WITH (fillfactor = 70)
    """,
    "CREATE INDEX ix_carts_due ON carts (expires_at) WHERE status = 'active'",
    """
    CREATE VIEW order_reservations AS
    SELECT o.order_id, o.user_id, l.key AS product_id,
        CASE WHEN o.status IN ('deducted', 'restocked')
            THEN (l.value ->> 4)::bigint - (l.value ->> 5)::bigint
            ELSE (l.value ->> 2)::bigint - (l.value ->> 3)::bigint - (l.value ->> 4)::bigint
        END AS quantity,
        o.status, o.expires_at
    FROM orders o CROSS JOIN LATERAL json_each(o.lines) l
    """,
    """
    CREATE VIEW cart_reservations AS
    SELECT c.cart_id, c.user_id, h.key AS product_id, h.value::bigint AS quantity,
        c.status, c.expires_at
    FROM carts c CROSS JOIN LATERAL json_each_text(c.held) h
    """,
    """
    CREATE TABLE inbox (
        event_id text COLLATE "C" NOT NULL,
        source text COLLATE "C" NOT NULL,
        digest bytea NOT NULL,
        outcome text NOT NULL,
        reason text,
        recorded_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_inbox PRIMARY KEY (event_id, source)
    )
    """,
    # Not BRIN: its ranges never shrink again once deleted rows' places are taken by new ones.
    "CREATE INDEX ix_inbox_recorded_at ON inbox (recorded_at)",
    """
    CREATE TABLE outbox (
        position bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_outbox PRIMARY KEY,
        id uuid NOT NULL,
        aggregatetype text NOT NULL,
        aggregateid text NOT NULL,
        type text NOT NULL,
        payload text NOT NULL,
        headers jsonb,
        occurred_at timestamptz NOT NULL,
        shard smallint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        published_at timestamptz
    ) WITH (fillfactor = 50)
    """,
    "CREATE INDEX ix_outbox_pending ON outbox (position) WHERE published_at IS NULL",
    """
    CREATE TABLE dead_letters (
        position bigint GENERATED ALWAYS AS IDENTITY,
        id uuid CONSTRAINT pk_dead_letters PRIMARY KEY,
        topic text NOT NULL,
        partition integer NOT NULL,
        "offset" bigint NOT NULL,
        key bytea,
        value bytea,
        headers json NOT NULL,
        record_timestamp timestamptz,
        reason text NOT NULL,
        message text NOT NULL,
        exception_class text,
        stacktrace text,
        fingerprint text NOT NULL,
        event_id text,
        event_type text,
        source text,
        delivery_count integer NOT NULL,
        redrive_count integer NOT NULL,
        failed_at timestamptz NOT NULL,
        published_at timestamptz,
        publish_error text,
        CONSTRAINT ck_dead_letters_reason CHECK (reason IN ('decode_error', 'schema_invalid',
            'unknown_type', 'id_reused', 'conflict', 'deadline_expired', 'retries_exhausted'))
    )
    """,
    """
    CREATE INDEX ix_dead_letters_pending ON dead_letters (position)
        WHERE published_at IS NULL AND publish_error IS NULL
    """,
    "CREATE INDEX ix_dead_letters_failed_at ON dead_letters (failed_at)",
    """
    CREATE TABLE parked_events (
        source text COLLATE "C" NOT NULL,
        event_id text COLLATE "C" NOT NULL,
        order_id text COLLATE "C" NOT NULL,
        event_type text NOT NULL,
        topic text NOT NULL,
        partition integer NOT NULL,
        "offset" bigint NOT NULL,
        key bytea,
        value bytea,
        headers json NOT NULL,
        record_timestamp timestamptz,
        parked_at timestamptz NOT NULL,
        deadline timestamptz NOT NULL,
        CONSTRAINT pk_parked_events PRIMARY KEY (source, event_id)
    )
    """,
    "CREATE INDEX ix_parked_events_deadline ON parked_events (deadline)",
    """
    CREATE TABLE stream_progress (
        topic text COLLATE "C" NOT NULL,
        partition integer NOT NULL,
        next_offset bigint NOT NULL,
        watermark timestamptz NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_stream_progress PRIMARY KEY (topic, partition)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE FUNCTION inventory_wake_relay() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('inventory_outbox', '');
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER tr_outbox_wake_relay AFTER INSERT ON outbox
        FOR EACH STATEMENT EXECUTE FUNCTION inventory_wake_relay()
    """,
    """
    CREATE TRIGGER tr_dead_letters_wake_relay AFTER INSERT ON dead_letters
        FOR EACH STATEMENT EXECUTE FUNCTION inventory_wake_relay()
    """,
)

_DOWNGRADE = (
    "DROP VIEW cart_reservations, order_reservations",
    """
    DROP TABLE stream_progress, parked_events, dead_letters, outbox, inbox, carts, orders,
        inventory_transactions, inventory
    """,
    "DROP FUNCTION inventory_wake_relay(), inventory_ledger_is_append_only()",
)


def upgrade() -> None:
    """Create everything."""
    for statement in _UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    """Drop everything."""
    for statement in _DOWNGRADE:
        op.execute(statement)
