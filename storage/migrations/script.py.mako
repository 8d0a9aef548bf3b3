"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Say what this changes; docs/decisions/0013-migrations-of-big-tables.md has the rules."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    ${upgrades if upgrades else "raise NotImplementedError"}


def downgrade() -> None:
    """Undo it."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    ${downgrades if downgrades else "raise NotImplementedError"}
