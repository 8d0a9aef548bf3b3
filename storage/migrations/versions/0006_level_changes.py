"""Marks of the products whose level changed, for the publisher of `inventory.levels`.

Triggers make them, so that every writer is covered: workers of the release before this one, the API, the commands, and
an operator at the prompt.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_MARK = """
CREATE FUNCTION inventory_mark_level_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO level_changes (product_ids) SELECT array_agg(product_id) FROM changed HAVING count(*) > 0;
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    """Add the table and the triggers. CREATE TRIGGER waits for writers of `inventory`, so it is tried briefly."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute(
        """
        CREATE TABLE level_changes (
            position bigint GENERATED ALWAYS AS IDENTITY,
            product_ids text[] NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT pk_level_changes PRIMARY KEY (position)
        )
        """
    )
    op.execute(_MARK)
    for event in ("INSERT", "UPDATE"):
        op.execute(
            f"""
            CREATE TRIGGER tr_inventory_mark_{event.lower()} AFTER {event} ON inventory
                REFERENCING NEW TABLE AS changed
                FOR EACH STATEMENT EXECUTE FUNCTION inventory_mark_level_changes()
            """
        )


def downgrade() -> None:
    """Drop all of it; what was not published is forgotten."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    for event in ("insert", "update"):
        op.execute(f"DROP TRIGGER tr_inventory_mark_{event} ON inventory")
    op.execute("DROP FUNCTION inventory_mark_level_changes()")
    op.execute("DROP TABLE level_changes")
