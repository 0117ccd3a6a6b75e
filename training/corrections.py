"""Labels that people have corrected, as training data."""

import hashlib
from typing import Final

import orjson

from services.core.errors import TemporaryError
from services.core.postgres import connect, transaction
from services.core.settings import PostgresSettings
from training.readers import Dataset

LANGUAGES: Final = ("en",)
"""The languages that the model is trained on, ISO 639."""
NAME: Final = "corrections"
_QUERY_SECONDS: Final = 60.0
# The newest first: of posts with the same text, what was said last counts.
_QUERY: Final = """
SELECT text, label::text FROM corrected_posts
WHERE language = ANY (%s) AND text ~ '[^[:space:]]'
ORDER BY corrected_at DESC, source, id
"""


def corrections(settings: PostgresSettings) -> Dataset:
    """The newest correction of each text; may be empty. Raises TemporaryError when the database is
    away.
    """
    try:
        connection = connect(settings, "moodstream training")
        try:
            with transaction(connection, _QUERY_SECONDS) as cursor:
                cursor.execute(_QUERY, (list(LANGUAGES),))
                rows = cursor.fetchall()
        finally:
            connection.close()
    except TemporaryError as exc:
        raise TemporaryError(
            f"the corrections cannot be read from {settings.host}:{settings.port}: {exc}; start "
            "PostgreSQL, set MOODSTREAM_POSTGRES_HOST, or train with "
            "MOODSTREAM_TRAINING_CORRECTIONS=false"
        ) from exc
    return Dataset(
        texts=tuple(text for text, _ in rows),
        labels=tuple(label for _, label in rows),
        name=NAME,
        format="corrected posts",
        sha256=hashlib.sha256(orjson.dumps(rows)).hexdigest(),
    ).unique()
