"""How far behind each Kafka partition is, beside what was taken in of it."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Adds the column. Consumers of the release before leave it as it is."""
    op.execute("ALTER TABLE kafka_offsets ADD COLUMN end_offset bigint")
