"""The warehouse's schema and its migrations (alembic). Its views are the interface for people and
other programs.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, pool, text

from services.core.postgres import sqlalchemy_url
from services.core.settings import PostgresSettings

_MIGRATION_LOCK = 7_046_171
"""Key of the advisory lock that lets one migration run at a time; any constant does."""


def upgrade(settings: PostgresSettings) -> None:
    """Brings the database to the newest schema; safe to call again, and from several places at
    once.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    engine = create_engine(sqlalchemy_url(settings), poolclass=pool.NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
        connection.commit()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
