"""Outgoing events that the broker will never accept: why, and whether an operator has discarded them.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; neither rewrites the table. The relay's index serves them: such rows are few."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("ALTER TABLE outbox ADD COLUMN publish_error text, ADD COLUMN discarded_at timestamptz")


def downgrade() -> None:
    """Drop the columns; unpublishable events are pending again."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("ALTER TABLE outbox DROP COLUMN publish_error, DROP COLUMN discarded_at")
