"""Remember imports of stock, so that each row of a file is applied once.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of imports: one short row per file, kept for good."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute(
        """
        CREATE TABLE imports (
            import_id text COLLATE "C" CONSTRAINT pk_imports PRIMARY KEY,
            content_digest text COLLATE "C" NOT NULL,
            row_count bigint NOT NULL,
            rows_applied bigint NOT NULL,
            operator text NOT NULL,
            started_at timestamptz NOT NULL DEFAULT now(),
            finished_at timestamptz,
            CONSTRAINT ck_imports_rows_applied CHECK (0 <= rows_applied AND rows_applied <= row_count)
        )
        """
    )
    op.execute("CREATE INDEX ix_imports_content ON imports (content_digest, started_at)")


def downgrade() -> None:
    """Drop the table; a file that is imported again is then a new import."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("DROP TABLE imports")
