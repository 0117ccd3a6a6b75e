"""What the dashboard reads from the warehouse: one snapshot, taken in one transaction.

Counts and averages on one screen must agree, so they are never read at two moments.
"""

import time
from collections.abc import Callable
from datetime import datetime
from threading import Lock
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from services.core.errors import TemporaryError
from services.core.events import ALL_TOPICS
from services.core.postgres import Connection, connect, transaction
from services.core.settings import PostgresSettings

_QUERY_SECONDS: Final = 10.0
_MINUTES_SHOWN: Final = 60
_DAYS_SHOWN: Final = 30
_TOPICS_SHOWN: Final = 24
_NEWEST_SHOWN: Final = 30


class Counts(BaseModel):
    """Posts of one topic in one stretch of time."""

    model_config = ConfigDict(frozen=True)

    topic: str
    start: datetime
    """First instant of the minute or day, UTC."""
    posts: int
    negative: int
    neutral: int
    positive: int
    unscored: int
    average_score: float | None
    """-1 to +1; None where nothing was scored."""


class NewPost(BaseModel):
    """A post as it is shown."""

    model_config = ConfigDict(frozen=True)

    source: str
    id: str
    text: str
    created_at: datetime
    topics: list[str]
    label: str | None
    score: float | None
    model_version: str | None


class Snapshot(BaseModel):
    """Everything on the first page, as of one moment."""

    model_config = ConfigDict(frozen=True)

    taken_at: datetime
    """By the database's clock, UTC."""
    minutes: list[Counts]
    """All topics together, the last 60 minutes that have posts, oldest first."""
    days: list[Counts]
    """All topics together, the last 30 days that have posts, oldest first."""
    topics: list[Counts]
    """Each topic's newest day, most posts first."""
    newest: list[NewPost]
    """Newest first."""
    dead_letters: dict[str, int]
    """By reason."""
    problem: str | None = None
    """Set when the database is away and this is the last snapshot that could be taken."""


_COUNTS = "posts, negative, neutral, positive, unscored, average_score"

_MINUTES = f"""
SELECT topic, minute AS start, {_COUNTS} FROM sentiment_by_minute WHERE topic = %s
ORDER BY minute DESC LIMIT %s
"""  # noqa: S608 - constant columns

_DAYS = f"""
SELECT topic, day::timestamp AT TIME ZONE 'UTC' AS start, {_COUNTS} FROM sentiment_by_day
WHERE topic = %s ORDER BY day DESC LIMIT %s
"""  # noqa: S608 - constant columns

_TOPICS = f"""
SELECT topic, day::timestamp AT TIME ZONE 'UTC' AS start, {_COUNTS} FROM sentiment_by_day
WHERE topic <> %s AND day = (SELECT max(day) FROM sentiment_by_day)
ORDER BY posts DESC, topic LIMIT %s
"""  # noqa: S608 - constant columns

_NEWEST = """
SELECT source, id, left(text, 600) AS text, created_at, topics, label::text AS label, score,
    model_version
FROM posts ORDER BY created_at DESC LIMIT %s
"""

_DEAD_LETTERS = "SELECT reason, records FROM dead_letters_by_reason"


class Warehouse:
    """Takes snapshots, at most one a second however many people look."""

    def __init__(
        self,
        settings: PostgresSettings,
        *,
        max_age_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._max_age = max_age_seconds
        self._clock = clock
        self._lock = Lock()
        self._connection: Connection | None = None
        self._last: tuple[float, Snapshot] | None = None

    def snapshot(self) -> Snapshot:
        """The newest snapshot; an older one that says so while the database is away.

        Raises TemporaryError when the database is away and there never was one. Thread-safe.
        """
        with self._lock:
            now = self._clock()
            if self._last is None or now - self._last[0] >= self._max_age:
                try:
                    self._last = (now, self._take())
                except TemporaryError as exc:
                    if self._last is None:
                        raise
                    stale = self._last[1].model_copy(update={"problem": str(exc)})
                    self._last = (now, stale)
            return self._last[1]

    def _take(self) -> Snapshot:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._settings, "moodstream-dashboard")
            self._connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with transaction(self._connection, _QUERY_SECONDS) as cursor:

            def rows(query: str, *arguments: Any) -> list[dict[str, Any]]:
                cursor.execute(query, arguments)
                names = [column.name for column in cursor.description or ()]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

            return Snapshot.model_validate(
                {
                    "taken_at": rows("SELECT clock_timestamp() AS now")[0]["now"],
                    "minutes": rows(_MINUTES, ALL_TOPICS, _MINUTES_SHOWN)[::-1],
                    "days": rows(_DAYS, ALL_TOPICS, _DAYS_SHOWN)[::-1],
                    "topics": rows(_TOPICS, ALL_TOPICS, _TOPICS_SHOWN),
                    "newest": rows(_NEWEST, _NEWEST_SHOWN),
                    "dead_letters": {row["reason"]: row["records"] for row in rows(_DEAD_LETTERS)},
                }
            )
