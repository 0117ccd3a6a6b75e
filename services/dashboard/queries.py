"""What the dashboard reads from the warehouse: one snapshot, taken in one transaction.

Counts and averages on one screen must agree, so they are never read at two moments. The comparison
of champion and challenger alone may be some seconds older: it reads many more rows.
"""

import time
from collections.abc import Callable, Mapping
from datetime import date, datetime
from threading import Lock
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from services.core.contract import CHALLENGER, CHAMPION, RolloutState
from services.core.errors import TemporaryError
from services.core.events import ALL_TOPICS
from services.core.postgres import Connection, Cursor, connect, transaction
from services.core.settings import PostgresSettings

_QUERY_SECONDS: Final = 10.0
_MINUTES_SHOWN: Final = 60
_DAYS_SHOWN: Final = 30
_TOPICS_SHOWN: Final = 24
_NEWEST_SHOWN: Final = 30
_PROMOTIONS_SHOWN: Final = 20
_MOST_PROMOTIONS: Final = 1_000
_COMPARED_HOURS: Final = 24
_MOST_COMPARED: Final = 100_000
"""The newest rows that a comparison reads: 0.2 s, and shares that are right to 0.3 points."""
_COMPARISON_SECONDS: Final = 10.0
"""How old a comparison may be."""


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
    corrected_label: str | None
    """A person's newest word on it."""
    corrected_by: str | None


class Promotion(BaseModel):
    """What became of a model version under an alias, at one moment."""

    model_config = ConfigDict(frozen=True)

    alias: str
    version: str
    state: str
    """refused, rolling out, serving, rolled back or replaced."""
    reason: str
    at: datetime


class Side(BaseModel):
    """What one of two models said about the posts that both scored."""

    model_config = ConfigDict(frozen=True)

    version: str
    negative: float
    """Share of its labels, 0 to 1."""
    neutral: float
    positive: float
    average_score: float
    p50_seconds: float | None
    """Of one request; both models are timed on the same texts. None before the first time."""
    p99_seconds: float | None


class Comparison(BaseModel):
    """Champion and challenger on the same posts: the newest 100,000 of the last 24 hours."""

    model_config = ConfigDict(frozen=True)

    posts: int
    agreement: float
    """Share of the posts on which both have the same label, 0 to 1."""
    champion: Side
    challenger: Side
    first_at: datetime
    last_at: datetime


class Models(BaseModel):
    """The two roles and how they compare."""

    model_config = ConfigDict(frozen=True)

    champion: Promotion | None
    """Of the version that serves; when none does, the last thing that happened."""
    challenger: Promotion | None
    """As for the champion."""
    comparison: Comparison | None
    """None unless both serve and have posts in common."""


class Drift(BaseModel):
    """How far a day's posts are from those before it."""

    model_config = ConfigDict(frozen=True)

    day: date
    measure: str
    """score or vocabulary."""
    model_version: str
    posts: int
    mean: float
    psi: float | None
    """Population stability index; None on the first days."""


class Snapshot(BaseModel):
    """Everything on the first page, as of one moment."""

    model_config = ConfigDict(frozen=True)

    taken_at: datetime
    """By the database's clock, UTC."""
    minutes: list[Counts]
    """All topics together, the 60 minutes up to the newest that has posts, oldest first."""
    days: list[Counts]
    """All topics together, the 30 days up to the newest that has posts, oldest first."""
    topics: list[Counts]
    """Each topic on the newest day, most posts first."""
    newest: list[NewPost]
    """Newest first."""
    dead_letters: dict[str, int]
    """By reason."""
    models: Models
    promotions: list[Promotion]
    """Those within the minutes shown, at most the newest 20, oldest first."""
    drift: list[Drift]
    """The newest day of each measure."""
    problem: str | None = None
    """Set when the database is away and this is the last snapshot that could be taken."""


_COUNTS = "posts, negative, neutral, positive, unscored, average_score"
_SUMS = """
sum(posts) AS posts, sum(negative) AS negative, sum(neutral) AS neutral, sum(positive) AS positive,
sum(unscored) AS unscored, sum(score_sum) / nullif(sum(posts - unscored), 0) AS average_score
"""

# The newest stretch that has posts, so that yesterday's replay is shown too. Bounded on both sides,
# or the views would add up the whole history.
_MINUTES = f"""
SELECT topic, minute AS start, {_COUNTS} FROM sentiment_by_minute
WHERE topic = %(all)s AND minute > (
    SELECT max(minute) FROM rollup_minute WHERE topic = %(all)s
) - make_interval(mins => %(most)s)
ORDER BY minute
"""  # noqa: S608 - constant columns

_DAYS = f"""
SELECT %(all)s AS topic, date_trunc('day', hour, 'UTC') AS start, {_SUMS} FROM rollup_hour
WHERE topic = %(all)s AND hour >= date_trunc('day', (
    SELECT max(hour) FROM rollup_hour WHERE topic = %(all)s
), 'UTC') - make_interval(days => %(most)s - 1)
GROUP BY 2 HAVING sum(posts) > 0 ORDER BY 2
"""  # noqa: S608 - constant columns

_TOPICS = f"""
SELECT topic, date_trunc('day', min(hour), 'UTC') AS start, {_SUMS} FROM rollup_hour
WHERE topic <> %(all)s AND hour >= date_trunc('day', (
    SELECT max(hour) FROM rollup_hour WHERE topic = %(all)s
), 'UTC')
GROUP BY topic HAVING sum(posts) > 0 ORDER BY posts DESC, topic LIMIT %(most)s
"""  # noqa: S608 - constant columns

_NEWEST = """
SELECT source, id, left(text, 600) AS text, created_at, topics, label::text AS label, score,
    model_version, corrected_label, corrected_by
FROM (SELECT * FROM posts ORDER BY created_at DESC LIMIT %s) AS newest
LEFT JOIN LATERAL (
    SELECT label::text AS corrected_label, corrected_by FROM corrections
    WHERE source = newest.source AND post_id = newest.id
    ORDER BY corrections.id DESC LIMIT 1
) AS correction ON true
ORDER BY created_at DESC
"""

_DEAD_LETTERS = "SELECT reason, records FROM dead_letters_by_reason"

_PROMOTION = "alias, version, state, reason, at"

_PROMOTIONS = f"""
SELECT * FROM (
    SELECT id, {_PROMOTION} FROM promotions WHERE at >= coalesce(%s::timestamptz, '-infinity')
    ORDER BY at DESC, id DESC LIMIT %s
) AS newest
ORDER BY at, id
"""  # noqa: S608 - constant columns

# A version serves from its last row that says so until one that says something else.
_ROLES = f"""
SELECT DISTINCT ON (alias) {_PROMOTION} FROM (
    SELECT DISTINCT ON (alias, version) id, {_PROMOTION} FROM promotions
    ORDER BY alias, version, at DESC, id DESC
) AS last
ORDER BY alias, state = 'serving' DESC, at DESC, id DESC
"""  # noqa: S608 - constant columns

_COMPARISON = """
WITH shadow AS (
    SELECT label, champion_label, score, champion_score, stored_at FROM shadow_predictions
    WHERE champion_version = %(champion)s AND model_version = %(challenger)s
        AND stored_at > now() - make_interval(hours => %(hours)s)
    ORDER BY stored_at DESC LIMIT %(most)s
), labels AS (
    SELECT count(*) AS posts, avg((label = champion_label)::int) AS agreement,
           avg((champion_label = 'negative')::int) AS champion_negative,
           avg((champion_label = 'neutral')::int) AS champion_neutral,
           avg((champion_label = 'positive')::int) AS champion_positive,
           avg(champion_score) AS champion_average_score,
           avg((label = 'negative')::int) AS challenger_negative,
           avg((label = 'neutral')::int) AS challenger_neutral,
           avg((label = 'positive')::int) AS challenger_positive,
           avg(score) AS challenger_average_score,
           min(stored_at) AS first_at, max(stored_at) AS last_at
    FROM shadow
), timed AS (
    SELECT champion_seconds, challenger_seconds FROM shadow_batches
    WHERE champion_version = %(champion)s AND challenger_version = %(challenger)s
        AND stored_at > now() - make_interval(hours => %(hours)s)
    ORDER BY stored_at DESC LIMIT %(most)s
), seconds AS (
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY champion_seconds) AS champion_p50_seconds,
           percentile_cont(0.99) WITHIN GROUP (ORDER BY champion_seconds) AS champion_p99_seconds,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY challenger_seconds)
               AS challenger_p50_seconds,
           percentile_cont(0.99) WITHIN GROUP (ORDER BY challenger_seconds)
               AS challenger_p99_seconds
    FROM timed
)
SELECT * FROM labels, seconds WHERE posts > 0
"""

_DRIFT = """
SELECT DISTINCT ON (measure) day, measure, model_version, posts, mean, psi FROM drift
ORDER BY measure, day DESC, computed_at DESC
"""


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
        self._compared: tuple[float, tuple[str, str], Comparison | None] | None = None

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

    def promotions(self, since: datetime | None) -> list[Promotion]:
        """What happened to versions since then, oldest first, at most the newest 1,000.

        Raises TemporaryError. Thread-safe.
        """
        with self._lock, transaction(self._open(), _QUERY_SECONDS) as cursor:
            return _promotions(cursor, since, _MOST_PROMOTIONS)

    def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._settings, "moodstream-dashboard")
            self._connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        return self._connection

    def _take(self) -> Snapshot:
        with transaction(self._open(), _QUERY_SECONDS) as cursor:
            minutes = _rows(cursor, _MINUTES, {"all": ALL_TOPICS, "most": _MINUTES_SHOWN})
            first = minutes[0]["start"] if minutes else None
            return Snapshot.model_validate(
                {
                    "taken_at": _rows(cursor, "SELECT clock_timestamp() AS now")[0]["now"],
                    "minutes": minutes,
                    "days": _rows(cursor, _DAYS, {"all": ALL_TOPICS, "most": _DAYS_SHOWN}),
                    "topics": _rows(cursor, _TOPICS, {"all": ALL_TOPICS, "most": _TOPICS_SHOWN}),
                    "newest": _rows(cursor, _NEWEST, _NEWEST_SHOWN),
                    "dead_letters": {
                        row["reason"]: row["records"] for row in _rows(cursor, _DEAD_LETTERS)
                    },
                    "models": self._models(cursor),
                    "promotions": _promotions(cursor, first, _PROMOTIONS_SHOWN),
                    "drift": _rows(cursor, _DRIFT),
                }
            )

    def _models(self, cursor: Cursor) -> Models:
        roles = {row["alias"]: Promotion.model_validate(row) for row in _rows(cursor, _ROLES)}
        champion, challenger = roles.get(CHAMPION), roles.get(CHALLENGER)
        comparison = None
        if (
            champion is not None
            and challenger is not None
            and champion.state == challenger.state == RolloutState.SERVING
        ):
            comparison = self._comparison(cursor, (champion.version, challenger.version))
        return Models(champion=champion, challenger=challenger, comparison=comparison)

    def _comparison(self, cursor: Cursor, pair: tuple[str, str]) -> Comparison | None:
        now = self._clock()
        if self._compared is not None:
            taken, compared, comparison = self._compared
            if compared == pair and now - taken < _COMPARISON_SECONDS:
                return comparison
        rows = _rows(
            cursor,
            _COMPARISON,
            {
                "champion": pair[0],
                "challenger": pair[1],
                "hours": _COMPARED_HOURS,
                "most": _MOST_COMPARED,
            },
        )
        comparison = _comparison(rows[0], pair) if rows else None
        self._compared = (now, pair, comparison)
        return comparison


def _comparison(row: Mapping[str, Any], pair: tuple[str, str]) -> Comparison:
    sides = {
        role: {"version": version}
        | {
            name.removeprefix(f"{role}_"): value
            for name, value in row.items()
            if name.startswith(f"{role}_")
        }
        for role, version in zip((CHAMPION, CHALLENGER), pair, strict=True)
    }
    return Comparison.model_validate(dict(row) | sides)


def _promotions(cursor: Cursor, since: datetime | None, most: int) -> list[Promotion]:
    return [Promotion.model_validate(row) for row in _rows(cursor, _PROMOTIONS, since, most)]


def _rows(cursor: Cursor, query: str, *arguments: Any) -> list[dict[str, Any]]:
    """By column name. One mapping stands for named parameters."""
    named = len(arguments) == 1 and isinstance(arguments[0], Mapping)
    cursor.execute(query, arguments[0] if named else arguments)
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
