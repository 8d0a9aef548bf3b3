"""The tables as SQLAlchemy Core describes them, for migrations and for readers.

The migrations create them; a test compares the two, so this module is what the database has.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

metadata = MetaData()

_KEY = Text(collation="C")
_TIME = DateTime(timezone=True)
_NOW = text("now()")

inventory = Table(
    "inventory",
    metadata,
    Column("product_id", _KEY),
    Column("on_hand", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("available", BigInteger, Computed("on_hand - reserved", persisted=True), nullable=False),
    Column("low_stock_threshold", BigInteger, nullable=False),
    Column("stock_status", Text, nullable=False),
    Column("alert_status", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("updated_at", _TIME, server_default=_NOW, nullable=False),
    PrimaryKeyConstraint("product_id", name="pk_inventory"),
    CheckConstraint("0 <= reserved AND reserved <= on_hand", name="ck_inventory_reserved"),
    CheckConstraint("0 <= low_stock_threshold", name="ck_inventory_threshold"),
    CheckConstraint("stock_status IN ('ok', 'low', 'out')", name="ck_inventory_stock_status"),
    CheckConstraint("alert_status IN ('ok', 'low', 'out')", name="ck_inventory_alert_status"),
)
Index(
    "ix_inventory_not_ok",
    inventory.c.product_id,
    postgresql_where=text("stock_status <> 'ok'"),
)

inventory_transactions = Table(
    "inventory_transactions",
    metadata,
    Column("product_id", _KEY, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("on_hand_before", BigInteger, nullable=False),
    Column("on_hand_after", BigInteger, nullable=False),
    Column("reserved_before", BigInteger, nullable=False),
    Column("reserved_after", BigInteger, nullable=False),
    Column("reference_type", Text, nullable=False),
    Column("reference_id", _KEY, nullable=False),
    Column("operator", Text),
    Column("reason", Text),
    Column("event_id", _KEY, nullable=False),
    Column("occurred_at", _TIME, nullable=False),
    Column("recorded_at", _TIME, server_default=_NOW, nullable=False),
    PrimaryKeyConstraint("product_id", "sequence", name="pk_inventory_transactions"),
    CheckConstraint("sequence > 0", name="ck_inventory_transactions_sequence"),
    CheckConstraint("quantity > 0", name="ck_inventory_transactions_quantity"),
    CheckConstraint(
        "type IN ('IN', 'OUT', 'RESERVE', 'RELEASE', 'ADJUST')",
        name="ck_inventory_transactions_type",
    ),
    CheckConstraint(
        "reference_type IN ('ORDER', 'CART', 'MANUAL', 'IMPORT')",
        name="ck_inventory_transactions_reference_type",
    ),
    CheckConstraint(
        "0 <= reserved_after AND reserved_after <= on_hand_after",
        name="ck_inventory_transactions_after",
    ),
)

orders = Table(
    "orders",
    metadata,
    Column("order_id", _KEY),
    Column("status", Text, nullable=False),
    Column("user_id", Text),
    Column("cart_id", Text),
    Column("lines", JSON, nullable=False),
    Column("paid", Boolean, nullable=False),
    Column("refused", Boolean, nullable=False),
    Column("waiting", JSON),
    Column("seen", JSON),
    Column("expires_at", _TIME),
    Column("version", BigInteger, nullable=False),
    Column("updated_at", _TIME, server_default=_NOW, nullable=False),
    PrimaryKeyConstraint("order_id", name="pk_orders"),
    CheckConstraint(
        "status IN ('pending', 'reserved', 'rejected', 'deducted', 'expired', 'released', 'restocked')",
        name="ck_orders_status",
    ),
)
Index("ix_orders_due", orders.c.expires_at, postgresql_where=text("status = 'reserved'"))

carts = Table(
    "carts",
    metadata,
    Column("cart_id", _KEY),
    Column("status", Text, nullable=False),
    Column("user_id", Text),
    Column("held", JSON, nullable=False),
    Column("snapshot_version", BigInteger),
    Column("as_of", _TIME),
    Column("converted_at", _TIME),
    Column("expires_at", _TIME),
    Column("version", BigInteger, nullable=False),
    Column("updated_at", _TIME, server_default=_NOW, nullable=False),
    PrimaryKeyConstraint("cart_id", name="pk_carts"),
    CheckConstraint("status IN ('active', 'emptied', 'converted', 'expired')", name="ck_carts_status"),
)
Index("ix_carts_due", carts.c.expires_at, postgresql_where=text("status = 'active'"))

inbox = Table(
    "inbox",
    metadata,
    Column("event_id", _KEY, nullable=False),
    Column("source", _KEY, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("recorded_at", _TIME, server_default=_NOW, nullable=False),
    PrimaryKeyConstraint("event_id", "source", name="pk_inbox"),
)
Index("ix_inbox_recorded_at", inbox.c.recorded_at)

http_answers = Table(
    "http_answers",
    metadata,
    Column("event_id", _KEY, nullable=False),
    Column("source", _KEY, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("headers", JSON, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("recorded_at", _TIME, server_default=_NOW, nullable=False),
    PrimaryKeyConstraint("event_id", "source", name="pk_http_answers"),
)
Index("ix_http_answers_recorded_at", http_answers.c.recorded_at)

http_cursor_key = Table("http_cursor_key", metadata, Column("key", LargeBinary, nullable=False))

outbox = Table(
    "outbox",
    metadata,
    Column("position", BigInteger, Identity(always=True)),
    Column("id", Uuid, nullable=False),
    Column("aggregatetype", Text, nullable=False),
    Column("aggregateid", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("headers", JSONB),
    Column("occurred_at", _TIME, nullable=False),
    Column("shard", SmallInteger, nullable=False),
    Column("created_at", _TIME, server_default=_NOW, nullable=False),
    Column("published_at", _TIME),
    Column("publish_error", Text),
    Column("discarded_at", _TIME),
    PrimaryKeyConstraint("position", name="pk_outbox"),
)
Index(
    "ix_outbox_pending",
    outbox.c.position,
    postgresql_where=text("published_at IS NULL"),
)

level_changes = Table(
    "level_changes",
    metadata,
    Column("position", BigInteger, Identity(always=True)),
    Column("product_ids", ARRAY(Text), nullable=False),
    Column("created_at", _TIME, server_default=_NOW, nullable=False),
    PrimaryKeyConstraint("position", name="pk_level_changes"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("position", BigInteger, Identity(always=True)),
    Column("id", Uuid),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", JSON, nullable=False),
    Column("record_timestamp", _TIME),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("exception_class", Text),
    Column("stacktrace", Text),
    Column("fingerprint", Text, nullable=False),
    Column("event_id", Text),
    Column("event_type", Text),
    Column("source", Text),
    Column("delivery_count", Integer, nullable=False),
    Column("redrive_count", Integer, nullable=False),
    Column("failed_at", _TIME, nullable=False),
    Column("published_at", _TIME),
    Column("publish_error", Text),
    PrimaryKeyConstraint("id", name="pk_dead_letters"),
    CheckConstraint(
        "reason IN ('decode_error', 'schema_invalid', 'unknown_type', 'id_reused', 'conflict',"
        " 'deadline_expired', 'retries_exhausted')",
        name="ck_dead_letters_reason",
    ),
)
Index(
    "ix_dead_letters_pending",
    dead_letters.c.position,
    postgresql_where=text("published_at IS NULL AND publish_error IS NULL"),
)
Index("ix_dead_letters_failed_at", dead_letters.c.failed_at)

parked_events = Table(
    "parked_events",
    metadata,
    Column("source", _KEY, nullable=False),
    Column("event_id", _KEY, nullable=False),
    Column("order_id", _KEY, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", JSON, nullable=False),
    Column("record_timestamp", _TIME),
    Column("parked_at", _TIME, nullable=False),
    Column("deadline", _TIME, nullable=False),
    PrimaryKeyConstraint("source", "event_id", name="pk_parked_events"),
)
Index("ix_parked_events_deadline", parked_events.c.deadline)

stream_progress = Table(
    "stream_progress",
    metadata,
    Column("topic", _KEY, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("watermark", _TIME, nullable=False),
    Column("updated_at", _TIME, server_default=_NOW, nullable=False),
    PrimaryKeyConstraint("topic", "partition", name="pk_stream_progress"),
)

imports = Table(
    "imports",
    metadata,
    Column("import_id", _KEY),
    Column("content_digest", _KEY, nullable=False),
    Column("row_count", BigInteger, nullable=False),
    Column("rows_applied", BigInteger, nullable=False),
    Column("operator", Text, nullable=False),
    Column("started_at", _TIME, server_default=_NOW, nullable=False),
    Column("finished_at", _TIME),
    PrimaryKeyConstraint("import_id", name="pk_imports"),
    CheckConstraint("0 <= rows_applied AND rows_applied <= row_count", name="ck_imports_rows_applied"),
)
Index("ix_imports_content", imports.c.content_digest, imports.c.started_at)

stream_gaps = Table(
    "stream_gaps",
    metadata,
    Column("position", BigInteger, Identity(always=True)),
    Column("topic", _KEY, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("from_offset", BigInteger, nullable=False),
    Column("to_offset", BigInteger, nullable=False),
    Column("cause", Text, nullable=False),
    Column("noticed_at", _TIME, server_default=_NOW, nullable=False),
    Column("accepted_at", _TIME),
    Column("accepted_by", Text),
    PrimaryKeyConstraint("position", name="pk_stream_gaps"),
    CheckConstraint("from_offset < to_offset", name="ck_stream_gaps_offsets"),
    CheckConstraint("cause IN ('deleted', 'skipped')", name="ck_stream_gaps_cause"),
    CheckConstraint("(accepted_at IS NULL) = (accepted_by IS NULL)", name="ck_stream_gaps_accepted"),
)
Index("ix_stream_gaps_open", stream_gaps.c.position, postgresql_where=text("accepted_at IS NULL"))
