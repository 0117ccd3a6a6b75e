"""The warehouse's schema and its migrations (alembic). Its views are the interface for people and
other programs.
"""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, pool, text
from sqlalchemy.exc import InterfaceError, OperationalError

from services.core.errors import TemporaryError
from services.core.postgres import sqlalchemy_url
from services.core.settings import PostgresSettings

_MIGRATION_LOCK: Final = 7_046_171
"""Key of the advisory lock that lets one migration run at a time; any constant does."""
_CONNECT_SECONDS: Final = 5


def upgrade(settings: PostgresSettings) -> str:
    """Brings the database to the newest schema and says which that is; safe to call again, and from
    several places at once. Raises TemporaryError when the database is away.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    engine = create_engine(
        sqlalchemy_url(settings),
        poolclass=pool.NullPool,
        connect_args={"connect_timeout": _CONNECT_SECONDS},
    )
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
            connection.commit()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            return str(connection.scalar(text("SELECT version_num FROM alembic_version")))
    except (OperationalError, InterfaceError) as exc:
        raise TemporaryError(f"PostgreSQL: {exc.orig}".strip()) from exc
