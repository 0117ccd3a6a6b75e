"""What the dashboard asks about the past: series, topics, posts, the state of the pipeline.

Every query is bounded, so that it answers as fast over ten million posts as over ten thousand:
counts come from the rollups, and a search examines a part of the posts at a time and says where the
next one begins.
"""

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from queue import Empty, LifoQueue
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson
from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from services.core.errors import MoodstreamError, TemporaryError
from services.core.events import ALL_TOPICS
from services.core.postgres import Connection, Cursor, connect, transaction
from services.core.settings import PostgresSettings
from services.dashboard.access import viewer

_QUERY_SECONDS: Final = 10.0
_CONNECTIONS: Final = 4
_BUSY_SECONDS: Final = 5.0
_EXAMINED: Final = 5_000
"""Posts that one page of a search reads at most."""
_TELLING: Final = 10_000
"""The newest posts of which the most telling are taken."""
_TOPICS: Final = 24
_POINTS: Final = 2_000
_LATENCIES: Final = 1_000
_TEXT: Final = 600
"""Characters of a post's text that a page shows."""

_EARLIEST: Final = datetime(1900, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)


def _sensible(moment: datetime) -> datetime:
    if not _EARLIEST <= moment <= _LATEST:
        raise ValueError("give a time between the years 1900 and 9000")
    return moment.astimezone(UTC)


def _storable(word: str) -> str:
    if "\0" in word:
        raise ValueError("leave out the character NUL; no post has it")
    return word


Moment = Annotated[AwareDatetime, AfterValidator(_sensible)]
"""A time that stays one in every zone and a day further. In UTC: PostgreSQL does not know every
offset.
"""
Word = Annotated[str, AfterValidator(_storable)]
"""Text that PostgreSQL can hold."""
Label = Literal["negative", "neutral", "positive"]


class BadRequestError(MoodstreamError):
    """Parameters that make no sense; the message says which and why."""


class Step(StrEnum):
    """Length of one point of a series."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"


class Point(BaseModel):
    """Posts in one stretch of time."""

    model_config = ConfigDict(frozen=True)

    start: datetime
    posts: int
    negative: int
    neutral: int
    positive: int
    unscored: int
    average_score: float | None
    """-1 to +1; None where nothing was scored."""
    standard_error: float | None
    """Of the average: about 2 posts in 3 samples like this one are nearer to the truth."""


class TopicPoint(Point):
    """The same of one topic."""

    topic: str


class Now(BaseModel):
    """The last hour against the same hour yesterday."""

    model_config = ConfigDict(frozen=True)

    as_of: datetime
    """By the database's clock."""
    now: Point
    """The last 60 whole minutes, this one included."""
    yesterday: Point
    """The same 60 minutes a day before."""


class FoundPost(BaseModel):
    """A post as a search shows it."""

    model_config = ConfigDict(frozen=True)

    source: str
    id: str
    text: str
    """Its first 600 characters."""
    language: str | None
    created_at: datetime
    topics: list[str]
    label: Label | None
    p_negative: float | None
    p_neutral: float | None
    p_positive: float | None
    score: float | None
    model_version: str | None
    corrected_label: Label | None
    corrected_by: str | None


class FoundPosts(BaseModel):
    """One page of a search."""

    model_config = ConfigDict(frozen=True)

    posts: list[FoundPost]
    next: str | None
    """Give it as `cursor` to go on; None at the end. An empty page may have a next one."""
    searched_back_to: datetime | None
    """Every match since then has been found."""


class DeadLetters(BaseModel):
    """Records set aside for one reason."""

    model_config = ConfigDict(frozen=True)

    reason: str
    records: int
    last_at: datetime


class Pipeline(BaseModel):
    """How the pipeline does."""

    model_config = ConfigDict(frozen=True)

    as_of: datetime
    """By the database's clock; two answers and their `stored` give the rate."""
    newest_at: datetime | None
    """When the newest post was stored."""
    latency_p50_seconds: float | None
    """From a post's creation to its row, of the newest 1,000."""
    latency_p99_seconds: float | None
    lag: int | None
    """Records that Kafka held beyond those taken in, when each partition was last read from; None
    before the first one.
    """
    stored: int
    """Records of Kafka by what became of them, since the first one."""
    duplicates: int
    dead_lettered: int
    skipped: int
    dead_letters: list[DeadLetters]


class Filters(BaseModel):
    """What a view is about; the same names in every address."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    topic: Word = Field(default=ALL_TOPICS, max_length=256)
    label: Label | None = None
    language: Word | None = Field(default=None, max_length=35)
    text: Word | None = Field(default=None, max_length=200)
    """Contained in the post, whatever its case."""
    since: Moment | None = None
    until: Moment | None = None


class Reader:
    """A few connections for reading, each question in a transaction of its own. Thread-safe."""

    def __init__(self, settings: PostgresSettings, application: str = "moodstream-history") -> None:
        self._settings = settings
        self._application = application
        self._free: LifoQueue[Connection | None] = LifoQueue()
        for _ in range(_CONNECTIONS):
            self._free.put(None)

    @contextmanager
    def transaction(self, seconds: float = _QUERY_SECONDS) -> Iterator[Cursor]:
        """A read-only transaction that sees one moment. Raises TemporaryError when the database is
        away or everything is in use.
        """
        try:
            connection = self._free.get(timeout=_BUSY_SECONDS)
        except Empty:
            raise TemporaryError("too many questions at once; ask again in a moment") from None
        try:
            if connection is None or connection.closed:
                connection = connect(self._settings, self._application)
                connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with transaction(connection, seconds) as cursor:
                yield cursor
        finally:
            self._free.put(connection)

    def rows(self, query: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """The answer, by column name. Raises TemporaryError."""
        with self.transaction() as cursor:
            return rows(cursor, query, parameters)


def rows(cursor: Cursor, query: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The answer within a transaction, by column name."""
    cursor.execute(query, parameters)
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


_SUMS = """
coalesce(sum(posts), 0)::bigint AS posts, coalesce(sum(negative), 0)::bigint AS negative,
coalesce(sum(neutral), 0)::bigint AS neutral, coalesce(sum(positive), 0)::bigint AS positive,
coalesce(sum(unscored), 0)::bigint AS unscored,
(sum(score_sum) / nullif(sum(posts - unscored), 0))::float8 AS average_score,
sqrt(greatest(sum(score_square_sum) / nullif(sum(posts - unscored), 0)
              - (sum(score_sum) / nullif(sum(posts - unscored), 0)) ^ 2, 0)
     / nullif(sum(posts - unscored), 0))::float8 AS standard_error
"""

_SERIES = """
SELECT date_trunc(%(step)s, at, %(zone)s) AS start, {sums}
FROM ({counted}) AS counted GROUP BY 1 HAVING sum(posts) > 0 ORDER BY 1 DESC LIMIT %(most)s
"""

_COUNTS = "posts, negative, neutral, positive, unscored, score_sum, score_square_sum"

_MINUTES = f"""
SELECT minute AS at, {_COUNTS} FROM rollup_minute
WHERE topic = %(topic)s AND minute >= %(since)s AND minute < %(until)s
"""  # noqa: S608 - constant columns

# An hour that a day of the zone begins in the middle of is taken minute by minute: a few in a
# hundred, while all minutes of 60 days would take 170 ms.
_HOURS = f"""
WITH hours AS MATERIALIZED (
    SELECT hour, {_COUNTS}, date_trunc(%(step)s, hour, %(zone)s)
        <> date_trunc(%(step)s, hour + interval '59 minutes', %(zone)s) AS split
    FROM rollup_hour
    WHERE topic = %(topic)s AND hour > %(since)s - interval '1 hour' AND hour < %(until)s
)
SELECT hour AS at, {_COUNTS} FROM hours WHERE NOT split AND hour >= %(since)s
UNION ALL
SELECT minute, {", ".join(f"minutes.{name}" for name in _COUNTS.split(", "))}
FROM (SELECT DISTINCT hour FROM hours WHERE split) AS split
CROSS JOIN LATERAL (
    SELECT * FROM rollup_minute
    WHERE topic = %(topic)s AND minute >= greatest(split.hour, %(since)s)
        AND minute < least(split.hour + interval '1 hour', %(until)s)
    OFFSET 0
) AS minutes
"""  # noqa: S608 - constant columns

_TOPIC_POINTS = """
SELECT topic, min({column}) AS start, {sums}
FROM {table} WHERE topic <> %(all)s AND {column} >= %(since)s AND {column} < %(until)s
GROUP BY topic HAVING sum(posts) > 0 ORDER BY posts DESC, topic LIMIT %(most)s
"""

_HOUR = """
SELECT %(since)s::timestamptz AS start, {sums}
FROM rollup_minute WHERE topic = %(topic)s AND minute >= %(since)s AND minute < %(until)s
"""

_POST = """
source, id, left(text, %(shown)s) AS text, language, created_at, topics, label::text AS label,
p_negative, p_neutral, p_positive, score, model_version
"""

_MATCH = """
(%(topic)s = %(all)s OR %(topic)s = ANY (topics))
AND (%(label)s::sentiment IS NULL OR label = %(label)s)
AND (%(language)s::text IS NULL OR language = %(language)s)
AND (%(text)s::text IS NULL OR strpos(lower(text), lower(%(text)s)) > 0)
"""

_CORRECTED = """
LEFT JOIN LATERAL (
    SELECT corrections.label::text AS corrected_label, corrected_by FROM corrections
    WHERE corrections.source = found.source AND post_id = found.id
    ORDER BY corrections.id DESC LIMIT 1
) AS correction ON true
"""

# Examines so many posts below the cursor; the last one examined is where the next page begins.
_NEWEST = f"""
WITH examined AS (
    SELECT *, row_number() OVER (ORDER BY created_at DESC, source DESC, id DESC) AS number
    FROM (
        SELECT * FROM posts
        WHERE created_at >= %(since)s AND created_at < %(until)s
            AND (%(before)s::timestamptz IS NULL OR created_at <= %(before)s
                 AND (created_at, source, id) < (%(before)s, %(source)s, %(id)s))
        ORDER BY created_at DESC, source DESC, id DESC LIMIT %(examined)s
    ) AS part
), found AS (
    SELECT {_POST}, number FROM examined WHERE {_MATCH}
    ORDER BY number LIMIT %(limit)s
), last AS (
    SELECT source, id, created_at, number FROM examined ORDER BY number DESC LIMIT 1
)
SELECT 'found' AS kind, found.*, corrected_label, corrected_by FROM found {_CORRECTED}
UNION ALL
SELECT 'last', source, id, '', NULL, created_at, '{{}}', NULL, NULL, NULL, NULL, NULL, NULL, number,
    NULL, NULL
FROM last
ORDER BY number, kind
"""  # noqa: S608 - constant text

_MOST_TELLING = f"""
WITH found AS (
    SELECT {_POST} FROM (
        SELECT * FROM posts WHERE created_at >= %(since)s AND created_at < %(until)s
        ORDER BY created_at DESC LIMIT %(telling)s
    ) AS part
    WHERE label <> 'neutral' AND {_MATCH}
    ORDER BY abs(score) DESC, created_at DESC LIMIT %(limit)s
), back AS (
    SELECT min(created_at) AS searched_back_to FROM (
        SELECT created_at FROM posts WHERE created_at >= %(since)s AND created_at < %(until)s
        ORDER BY created_at DESC LIMIT %(telling)s
    ) AS part
)
SELECT found.*, corrected_label, corrected_by, searched_back_to
FROM back LEFT JOIN found ON true {_CORRECTED}
ORDER BY abs(score) DESC, created_at DESC
"""  # noqa: S608 - constant text

_LATENCY = """
SELECT now() AS as_of, max(stored_at) AS newest_at,
    percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (
        ORDER BY extract(epoch FROM stored_at - created_at)::float8
    ) AS latency
FROM (
    SELECT stored_at, created_at FROM posts WHERE created_at < now() + interval '1 day'
    ORDER BY created_at DESC LIMIT %(most)s
) AS newest
"""

_LEDGER = """
SELECT coalesce(sum(stored), 0)::bigint AS stored,
    coalesce(sum(duplicates), 0)::bigint AS duplicates,
    coalesce(sum(dead_lettered), 0)::bigint AS dead_lettered,
    coalesce(sum(skipped), 0)::bigint AS skipped,
    sum(greatest(end_offset - next_offset, 0))::bigint AS lag
FROM kafka_offsets
"""

_DEAD_LETTERS = "SELECT reason, records, last_at FROM dead_letters_by_reason ORDER BY records DESC"

_DEFAULT_SPANS: Final = {
    Step.MINUTE: timedelta(hours=2),
    Step.HOUR: timedelta(days=7),
    Step.DAY: timedelta(days=30),
}


def series(
    reader: Reader,
    topic: str,
    since: datetime | None,
    until: datetime | None,
    step: Step,
    zone: str,
) -> list[Point]:
    """A topic's points, oldest first, at most the newest 2,000; stretches without a post have none.

    Without `since`: the last 2 hours of minutes, 7 days of hours, 30 days of days. Raises
    BadRequestError for a zone that there is not, TemporaryError.
    """
    named = known_zone(zone)
    until = until or datetime.now(UTC) + timedelta(days=1)
    since = since or datetime.now(UTC) - _DEFAULT_SPANS[step]
    if step == Step.DAY:
        # Whole days, or the first one would look smaller than it was.
        local = since.astimezone(named)
        since = local.replace(hour=0, minute=0, second=0, microsecond=0)
    found = reader.rows(
        _SERIES.format(counted=_MINUTES if step == Step.MINUTE else _HOURS, sums=_SUMS),
        {
            "step": step.value,
            "zone": zone,
            "topic": topic,
            "since": since,
            "until": until,
            "most": _POINTS,
        },
    )
    return [Point.model_validate(row) for row in reversed(found)]


def topics(reader: Reader, since: datetime | None, until: datetime | None) -> list[TopicPoint]:
    """The topics with the most posts in a stretch of time, whole hours of it; by default today's
    last 24 hours. Raises TemporaryError.
    """
    now = datetime.now(UTC)
    since = since or now - timedelta(hours=24)
    until = until or now + timedelta(days=1)
    by_minute = until - since <= timedelta(hours=6)
    table, column = ("rollup_minute", "minute") if by_minute else ("rollup_hour", "hour")
    unit = timedelta(minutes=1) if by_minute else timedelta(hours=1)
    found = reader.rows(
        _TOPIC_POINTS.format(table=table, column=column, sums=_SUMS),
        {
            "all": ALL_TOPICS,
            # The unit that holds `since` counts.
            "since": since - unit,
            "until": until,
            "most": _TOPICS,
        },
    )
    return [TopicPoint.model_validate(row) for row in found]


def now(reader: Reader, topic: str) -> Now:
    """A topic's last hour and the same hour yesterday, as of one moment. Raises TemporaryError."""
    with reader.transaction() as cursor:
        (clock,) = rows(cursor, "SELECT now(), date_trunc('minute', now()) AS minute", {})
        end = clock["minute"] + timedelta(minutes=1)
        found = [
            Point.model_validate(
                rows(
                    cursor,
                    _HOUR.format(sums=_SUMS),
                    {"topic": topic, "since": last - timedelta(hours=1), "until": last},
                )[0]
            )
            for last in (end, end - timedelta(days=1))
        ]
    return Now(as_of=clock["now"], now=found[0], yesterday=found[1])


def posts(
    reader: Reader,
    filters: Filters,
    order: Literal["newest", "telling"],
    cursor: str | None,
    limit: int,
) -> FoundPosts:
    """Posts that match, newest first, or the most telling of the newest 10,000: those that the
    model is surest of. Raises BadRequestError for a cursor of elsewhere, TemporaryError.
    """
    before, source, ident = _decode(cursor)
    filtered = filters.topic != ALL_TOPICS or filters.label or filters.language or filters.text
    examined = _EXAMINED if filtered else limit
    parameters = filters.model_dump() | {
        "all": ALL_TOPICS,
        "since": filters.since or datetime(1970, 1, 1, tzinfo=UTC),
        "until": filters.until or datetime(9999, 1, 1, tzinfo=UTC),
        "text": filters.text or None,
        "before": before,
        "source": source,
        "id": ident,
        "examined": examined,
        "telling": _TELLING,
        "limit": limit,
        "shown": _TEXT,
    }
    if order == "telling":
        found = reader.rows(_MOST_TELLING, parameters)
        back = found[0]["searched_back_to"] if found else None
        return FoundPosts(
            posts=[FoundPost.model_validate(row) for row in found if row["source"] is not None],
            next=None,
            searched_back_to=back,
        )
    found = reader.rows(_NEWEST, parameters)
    matches = [row for row in found if row["kind"] == "found"]
    last = next((row for row in found if row["kind"] == "last"), None)
    shown = [FoundPost.model_validate(row) for row in matches]
    if len(matches) == limit:
        end = matches[-1]
    elif last is not None and last["number"] == examined:
        end = last
    else:
        return FoundPosts(
            posts=shown, next=None, searched_back_to=last["created_at"] if last else None
        )
    return FoundPosts(posts=shown, next=_encode(end), searched_back_to=end["created_at"])


def pipeline(reader: Reader) -> Pipeline:
    """How the pipeline does, as of one moment. Raises TemporaryError."""
    with reader.transaction() as cursor:
        (newest,) = rows(cursor, _LATENCY, {"most": _LATENCIES})
        (ledger,) = rows(cursor, _LEDGER, {})
        dead = rows(cursor, _DEAD_LETTERS, {})
    p50, p99 = newest["latency"] or (None, None)
    return Pipeline(
        as_of=newest["as_of"],
        newest_at=newest["newest_at"],
        latency_p50_seconds=p50,
        latency_p99_seconds=p99,
        dead_letters=[DeadLetters.model_validate(row) for row in dead],
        **ledger,
    )


def router(reader: Reader) -> APIRouter:
    """The addresses of all this, for those who may read."""
    api = APIRouter(prefix="/api", dependencies=[Depends(viewer)], tags=["history"])

    @api.get("/now")
    def get_now(topic: Word = ALL_TOPICS) -> Now:
        """The last hour against the same hour yesterday."""
        return now(reader, topic)

    @api.get("/series")
    def get_series(
        topic: Word = ALL_TOPICS,
        since: Moment | None = None,
        until: Moment | None = None,
        step: Step = Step.DAY,
        zone: str = "UTC",
    ) -> list[Point]:
        """Counts and average by minute, hour or day; days begin at midnight in `zone`."""
        return series(reader, topic, since, until, step, zone)

    @api.get("/topics")
    def get_topics(since: Moment | None = None, until: Moment | None = None) -> list[TopicPoint]:
        """The topics side by side, most posts first."""
        return topics(reader, since, until)

    @api.get("/posts")
    def get_posts(
        filters: Annotated[Filters, Query()],
        order: Literal["newest", "telling"] = "newest",
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> FoundPosts:
        """Posts that match the filters."""
        return posts(reader, filters, order, cursor, limit)

    @api.get("/pipeline")
    def get_pipeline() -> Pipeline:
        """Rate, latency, and what became of every record."""
        return pipeline(reader)

    return api


def known_zone(name: str) -> ZoneInfo:
    """Raises BadRequestError for one that Python or PostgreSQL has not."""
    try:
        if name.partition("/")[0] in {"posix", "right", "localtime", "posixrules"}:
            raise ValueError
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadRequestError(
            f"zone: there is no time zone {name[:64]!r}; try Europe/Paris"
        ) from None


def _encode(row: dict[str, Any]) -> str:
    place = [row["created_at"].isoformat(), row["source"], row["id"]]
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def _decode(cursor: str | None) -> tuple[datetime | None, str | None, str | None]:
    if not cursor:
        return None, None, None
    try:
        at, source, ident = orjson.loads(
            base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        )
        moment = datetime.fromisoformat(at)
        if (
            moment.tzinfo is None
            or not _EARLIEST <= moment <= _LATEST
            or not all(isinstance(part, str) and "\0" not in part for part in (source, ident))
        ):
            raise ValueError
    except (ValueError, TypeError, binascii.Error):
        raise BadRequestError("cursor: not one that this address gave; leave it out") from None
    return moment.astimezone(UTC), source, ident
