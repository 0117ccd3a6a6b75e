"""Brings the daily averages and counts to Airtable: a record for each topic and day.

Called by `python -m services.etl airtable`. The last days are written again each time, as late
posts still change them; a record that is there is updated, so a run may be repeated at will. Posts
themselves stay here: a base holds few records, and Airtable counts requests.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import requests
from pyairtable import Api
from pyairtable.api.table import Table
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from services.core.errors import SettingsError, TemporaryError
from services.core.postgres import connect, transaction
from services.core.settings import PostgresSettings, group, load

_MOST_RECORDS: Final = 10
"""Of one request."""
_REQUEST_SECONDS: Final = 0.25
"""From one request to the next: Airtable takes 5 a second for a base, whoever sends them."""
_PENALTY_SECONDS: Final = 30.0
"""How long Airtable refuses everything after a request too many."""
_OUTAGE_SECONDS: Final = 5.0
_TRIES: Final = 5
_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 30
_QUERY_SECONDS: Final = 60.0

_KEY: Final = ("topic", "day")
_FIELDS: Final = (
    *_KEY,
    "posts",
    "negative",
    "neutral",
    "positive",
    "unscored",
    "average_score",
    "standard_error",
)

_DAYS: Final = """
SELECT topic, day::text, posts::bigint, negative::bigint, neutral::bigint, positive::bigint,
       unscored::bigint, average_score::float8, standard_error::float8
FROM sentiment_by_day
WHERE day > (now() AT TIME ZONE 'UTC')::date - %s
ORDER BY day, topic
"""

_TO_DO: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "MOODSTREAM_AIRTABLE_TOKEN: Airtable does not know this token",
    HTTPStatus.FORBIDDEN: "MOODSTREAM_AIRTABLE_TOKEN: the token needs the scope "
    "data.records:write and access to the base, which must be MOODSTREAM_AIRTABLE_BASE",
    HTTPStatus.NOT_FOUND: "MOODSTREAM_AIRTABLE_BASE, MOODSTREAM_AIRTABLE_TABLE: "
    "there is no such base or table",
    HTTPStatus.UNPROCESSABLE_ENTITY: "MOODSTREAM_AIRTABLE_TABLE: the table needs the fields "
    f"{', '.join(_FIELDS)} (topic as text, day as date, the others as numbers), and a topic and "
    "day only once",
}


class AirtableSettings(BaseSettings):
    """Which table of which base."""

    model_config = group("MOODSTREAM_AIRTABLE_")

    token: SecretStr
    """Personal access token with the scope data.records:write for the base."""
    base: str
    """Identifier of the base, as app0123456789abcd."""
    table: str = "Sentiment"
    """Name or identifier of the table. It needs the columns of the view sentiment_by_day."""
    days: int = Field(default=3, ge=1, le=366)
    """How many days, today included, are written again."""
    url: str = "https://api.airtable.com"
    """Address of Airtable's API."""


def run() -> Mapping[str, Any]:
    """Brings the last days to Airtable and says how many records there were. Raises SettingsError
    and TemporaryError.
    """
    return push(load(PostgresSettings), load(AirtableSettings))


def push(
    postgres: PostgresSettings,
    settings: AirtableSettings,
    wait: Callable[[float], None] = time.sleep,
) -> Mapping[str, Any]:
    """As `run`, with these settings. `wait` takes seconds."""
    records = [
        {"fields": dict(zip(_FIELDS, row, strict=True))} for row in _rows(postgres, settings.days)
    ]
    api = Api(
        settings.token.get_secret_value(),
        timeout=(_CONNECT_SECONDS, _READ_SECONDS),
        retry_strategy=None,
        endpoint_url=settings.url,
    )
    table = api.table(settings.base, settings.table)
    created = 0
    for first in range(0, len(records), _MOST_RECORDS):
        if first:
            wait(_REQUEST_SECONDS)
        created += _upsert(table, records[first : first + _MOST_RECORDS], wait)
    return {"records": len(records), "created": created, "updated": len(records) - created}


def _rows(postgres: PostgresSettings, days: int) -> list[tuple[Any, ...]]:
    connection = connect(postgres, "moodstream airtable")
    try:
        with transaction(connection, _QUERY_SECONDS) as cursor:
            cursor.execute(_DAYS, (days,))
            return cursor.fetchall()
    finally:
        connection.close()


def _upsert(table: Table, records: Sequence[dict[str, Any]], wait: Callable[[float], None]) -> int:
    """Writes what one request holds, and returns how many records are new. A request without an
    answer may have been carried out; to repeat it then changes nothing.
    """
    for _ in range(_TRIES):
        try:
            return len(table.batch_upsert(records, key_fields=list(_KEY))["createdRecords"])
        except requests.HTTPError as exc:
            status = exc.response.status_code
            if status in _TO_DO:
                raise SettingsError(f"{_TO_DO[status]}: Airtable answered {exc}") from exc
            problem = f"{exc}"
            wait(_PENALTY_SECONDS if status == HTTPStatus.TOO_MANY_REQUESTS else _OUTAGE_SECONDS)
        except requests.RequestException as exc:
            problem = f"{exc}"
            wait(_OUTAGE_SECONDS)
    raise TemporaryError(f"Airtable: gave up after {_TRIES} tries; run it again later: {problem}")
