"""Writes an extract for Tableau: one .hyper file with days, hours and posts.

Called by `python -m services.etl hyper`. The file replaces the last one at once, so that whoever
opens it finds a whole one. Tableau's library is large and not in the image: install
requirements/hyper.txt where this runs.
"""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pydantic import Field
from pydantic_settings import BaseSettings

from services.core.batches import batches
from services.core.errors import SettingsError
from services.core.postgres import Cursor, connect, transaction
from services.core.settings import PostgresSettings, group, load

_SCHEMA: Final = "Extract"
_EXTRACT_SECONDS: Final = 3600.0
_SILENCE_SECONDS: Final = 120

_COUNTS: Final = {
    "posts": "big_int",
    "negative": "big_int",
    "neutral": "big_int",
    "positive": "big_int",
    "unscored": "big_int",
    "average_score": "double",
    "standard_error": "double",
}
_COUNTED: Final = """
posts::bigint, negative::bigint, neutral::bigint, positive::bigint, unscored::bigint,
average_score::float8, standard_error::float8
"""

_TABLES: Final[Mapping[str, tuple[Mapping[str, str], str]]] = {
    "sentiment_by_day": (
        {"topic": "text", "day": "date", **_COUNTS},
        f"SELECT topic, day, {_COUNTED} FROM sentiment_by_day ORDER BY day, topic",  # noqa: S608
    ),
    "sentiment_by_hour": (
        {"topic": "text", "hour": "timestamp_tz", **_COUNTS},
        f"SELECT topic, hour, {_COUNTED} FROM sentiment_by_hour ORDER BY hour, topic",  # noqa: S608
    ),
    "posts": (
        {
            "source": "text",
            "id": "text",
            "created_at": "timestamp_tz",
            "text": "text",
            "language": "text",
            "topics": "text",
            "label": "text",
            "score": "double",
            "model_version": "text",
        },
        "SELECT source, id, created_at, text, language, array_to_string(topics, '; '), "
        "label::text, score, model_version FROM posts "
        "WHERE created_at >= now() - make_interval(days => %(days)s) "
        "ORDER BY created_at, source, id",
    ),
}
"""Columns with the names that SqlType has for their types, and the query, of each table."""


class HyperSettings(BaseSettings):
    """Where the extract goes, and what is in it."""

    model_config = group("MOODSTREAM_HYPER_")

    file: Path = Path("moodstream.hyper")
    """The extract."""
    days: int = Field(default=30, ge=0, le=3660)
    """How many days of single posts are in it, besides all days' and hours' averages; 0: none."""


def run() -> Mapping[str, Any]:
    """Writes the extract and says how many rows it has. Raises SettingsError, TemporaryError and
    OSError.
    """
    return extract(load(PostgresSettings), load(HyperSettings))


def extract(postgres: PostgresSettings, settings: HyperSettings) -> Mapping[str, Any]:
    """As `run`, with these settings. All tables are as of one moment."""
    hyper = _library()
    part = settings.file.with_name(f"{settings.file.name}.part")
    connection = connect(postgres, "moodstream hyper")
    try:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with (
            hyper.HyperProcess(
                hyper.Telemetry.DO_NOT_SEND_USAGE_DATA_TO_TABLEAU,
                # Otherwise it writes a log into the working directory.
                parameters={"log_config": ""},
            ) as process,
            hyper.Connection(
                process.endpoint, part, hyper.CreateMode.CREATE_AND_REPLACE
            ) as extracted,
            transaction(connection, _EXTRACT_SECONDS) as cursor,
        ):
            extracted.catalog.create_schema(_SCHEMA)
            rows = {name: _fill(hyper, extracted, name, cursor, settings.days) for name in _TABLES}
        part.replace(settings.file)
    finally:
        connection.close()
        part.unlink(missing_ok=True)
    return {"file": str(settings.file), "bytes": settings.file.stat().st_size, "rows": rows}


def _fill(hyper: ModuleType, extracted: Any, name: str, cursor: Cursor, days: int) -> int:
    """Creates a table from its query; how many rows it has."""
    columns, query = _TABLES[name]
    table = hyper.TableDefinition(
        hyper.TableName(_SCHEMA, name),
        [
            hyper.TableDefinition.Column(column, getattr(hyper.SqlType, kind)())
            for column, kind in columns.items()
        ],
    )
    extracted.catalog.create_table(table)
    written = 0
    with hyper.Inserter(extracted, table) as inserter:
        for batch in batches(cursor, query, {"days": days}, _SILENCE_SECONDS):
            inserter.add_rows(batch)
            written += len(batch)
        inserter.execute()
    return written


def _library() -> ModuleType:
    try:
        import tableauhyperapi
    except ImportError as exc:
        raise SettingsError(
            "an extract for Tableau needs tableauhyperapi: pip install -r requirements/hyper.txt"
        ) from exc
    library: ModuleType = tableauhyperapi
    return library
