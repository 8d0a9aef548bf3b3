"""Gaps: records that Kafka deleted before they were read, or that an operator skipped.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_UPGRADE = (
    """
    CREATE TABLE stream_gaps (
        position bigint GENERATED ALWAYS AS IDENTITY,
        topic text COLLATE "C" NOT NULL,
        partition integer NOT NULL,
        from_offset bigint NOT NULL,
        to_offset bigint NOT NULL,
        cause text NOT NULL,
        noticed_at timestamptz NOT NULL DEFAULT now(),
        accepted_at timestamptz,
        accepted_by text,
        CONSTRAINT pk_stream_gaps PRIMARY KEY (position),
        CONSTRAINT ck_stream_gaps_offsets CHECK (from_offset < to_offset),
        CONSTRAINT ck_stream_gaps_cause CHECK (cause IN ('deleted', 'skipped')),
        CONSTRAINT ck_stream_gaps_accepted CHECK ((accepted_at IS NULL) = (accepted_by IS NULL))
    )
    """,
    "CREATE INDEX ix_stream_gaps_open ON stream_gaps (position) WHERE accepted_at IS NULL",
)


def upgrade() -> None:
    """Create the table."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    for statement in _UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    """Drop the table."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("DROP TABLE stream_gaps")
