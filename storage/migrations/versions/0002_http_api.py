"""What the HTTP API remembers: answers to be given again, and the key that seals its cursors.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UPGRADE = (
    # An answer belongs to the inbox row of the same identity. No foreign key: pruning the inbox would look here for
    # every event from Kafka too.
    """
    CREATE TABLE http_answers (
        event_id text COLLATE "C" NOT NULL,
        source text COLLATE "C" NOT NULL,
        status smallint NOT NULL,
        headers json NOT NULL,
        body bytea NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_http_answers PRIMARY KEY (event_id, source)
    )
    """,
    "CREATE INDEX ix_http_answers_recorded_at ON http_answers (recorded_at)",
    """
    CREATE TABLE http_cursor_key (
        key bytea NOT NULL
    )
    """,
    # Two random UUIDs (122 random bits each, from the operating system) make the key.
    """
    INSERT INTO http_cursor_key (key)
    VALUES (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'))
    """,
)


def upgrade() -> None:
    """Create both tables and the key."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    for statement in _UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    """Drop both tables."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("DROP TABLE http_answers, http_cursor_key")
