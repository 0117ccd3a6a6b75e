"""Scores the past anew with another model version, beside what the champion said.

The past is cut into hours. Any number of workers, each a process, take one hour after the other:
PostgreSQL's advisory locks say which are taken, and a worker that dies gives its hour back with its
connection. A few posts are read, scored, and stored in one transaction with the place that has been
reached, so that the next worker goes on from there.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from services.core.contract import labels_of
from services.core.errors import MoodstreamError, TemporaryError
from services.core.inference import FailedTextsError, InferenceClient, RejectedTextsError, Scored
from services.core.postgres import Connection, connect, transaction
from services.core.settings import InferenceSettings, PostgresSettings
from services.etl.files import Files
from services.etl.lake import pick
from services.etl.settings import BackfillSettings

log = logging.getLogger(__name__)

_TRANSACTION_SECONDS: Final = 60.0
_POSTS: Final = 500
"""Posts in one request and in one transaction."""
_PATIENCE_SECONDS: Final = 120.0
"""How long a worker waits for a predictor that is away before it gives up."""
_PAUSE_SECONDS: Final = 1.0
_LOCKS: Final = 7_046_173
"""First key of the advisory locks of chunks; the second is the chunk's id."""
_HOUR: Final = timedelta(hours=1)

T = TypeVar("T")
Key = tuple[datetime, str, str]
"""created_at, source and id of a post: the order in which an hour is read."""
Read = tuple[datetime, str, str, str]
"""A post's key and its text."""

# An hour that has got more posts since is done again; what is stored already stays as it is.
_PLAN: Final = """
INSERT INTO backfill_chunks AS chunk (model_name, model_version, hour, expected)
SELECT %s, %s, hour, sum(posts - unscored)::bigint FROM rollup_hour
WHERE topic = '*' AND hour >= %s AND hour < %s
GROUP BY hour HAVING sum(posts - unscored) > 0 ORDER BY hour
ON CONFLICT (model_name, model_version, hour) DO UPDATE
    SET expected = excluded.expected, read = 0, rejected = 0, done_at = NULL,
        at_created = NULL, at_source = NULL, at_id = NULL
    WHERE chunk.expected < excluded.expected
"""
_OPEN: Final = """
SELECT id FROM backfill_chunks
WHERE model_name = %s AND model_version = %s AND hour >= %s AND hour < %s AND done_at IS NULL
    AND id <> ALL (%s)
ORDER BY hour DESC LIMIT 100
"""
_TAKE: Final = "SELECT pg_try_advisory_lock(%s, %s)"
_RELEASE: Final = "SELECT pg_advisory_unlock(%s, %s)"
_PLACE: Final = """
SELECT hour, at_created, at_source, at_id FROM backfill_chunks WHERE id = %s AND done_at IS NULL
"""

_READ: Final = """
SELECT created_at, source, id, text FROM posts
WHERE created_at >= %s AND created_at < %s AND label IS NOT NULL
    AND (created_at, source COLLATE "C", id COLLATE "C") > (%s, %s, %s)
ORDER BY created_at, source COLLATE "C", id COLLATE "C" LIMIT %s
"""

_STORE: Final = """
INSERT INTO rescored_predictions (source, id, model_name, model_version, created_at, label,
                                  p_negative, p_neutral, p_positive)
SELECT source, id, %s, %s, created_at, label::sentiment, p_negative, p_neutral, p_positive
FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[], %s::real[], %s::real[],
            %s::real[]) AS row (source, id, created_at, label, p_negative, p_neutral, p_positive)
WHERE NOT EXISTS (SELECT FROM deletion_notices AS notice
                  WHERE (notice.source, notice.id) = (row.source, row.id))
ORDER BY source, id
ON CONFLICT DO NOTHING
"""
# Not if somebody has begun the hour anew.
_ADVANCE: Final = """
UPDATE backfill_chunks SET at_created = %s, at_source = %s, at_id = %s, read = read + %s,
    rejected = rejected + %s
WHERE id = %s AND (at_created, at_source, at_id) IS NOT DISTINCT FROM (%s, %s, %s)
"""
_DONE: Final = """
UPDATE backfill_chunks SET done_at = clock_timestamp()
WHERE id = %s AND (at_created, at_source, at_id) IS NOT DISTINCT FROM (%s, %s, %s)
"""
_PROGRESS: Final = """
SELECT count(*) - count(done_at), coalesce(sum(read), 0)::bigint,
       coalesce(sum(expected), 0)::bigint
FROM backfill_chunks WHERE model_name = %s AND model_version = %s AND hour >= %s AND hour < %s
"""


class OtherVersionError(MoodstreamError):
    """The predictor does not serve the version that is asked for."""


@dataclass(frozen=True)
class _Work:
    """What one worker does, and with what."""

    connection: Connection
    client: InferenceClient
    files: Files | None
    model: tuple[str, str]
    """Name and version."""
    hours: tuple[datetime, datetime]
    """The first, and the one after the last."""
    share: float


def backfill(
    postgres: PostgresSettings,
    inference: InferenceSettings,
    files: Files | None,
    settings: BackfillSettings,
) -> Mapping[str, Any]:
    """Works until no hour is left to take. Raises OtherVersionError, or TemporaryError for a
    database that is away or a predictor that stays away; what was done until then stays done.
    """
    client = InferenceClient(inference)
    served = _patiently(client.version)
    version = settings.model_version or served
    if served != version:
        raise OtherVersionError(
            f"the predictor at {inference.url} serves version {served}, not {version}: name the "
            "address of one that serves it in MOODSTREAM_INFERENCE_URL"
        )
    hours = _hour(settings.since), _hour(settings.until or datetime.now(UTC))
    model = inference.model_name, version
    connection = connect(postgres, "moodstream backfill")
    work = _Work(connection, client, files, model, hours, settings.share)
    began, read, tried = time.monotonic(), 0, [0]
    try:
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            cursor.execute(_PLAN, (*model, *hours))
        while (chunk := _take(work, tried)) is not None:
            tried.append(chunk)
            read += _rescore_hour(work, chunk)
            with transaction(connection, _TRANSACTION_SECONDS) as cursor:
                cursor.execute(_RELEASE, (_LOCKS, chunk))
            _report(work, read, time.monotonic() - began)
        left, done, expected = _progress(work)
    finally:
        connection.close()
    return {
        "model_version": version,
        "posts_read": read,
        "posts_read_by_all": done,
        "posts_expected": expected,
        "hours_left_to_others": left,
    }


def _hour(time_: datetime) -> datetime:
    return time_.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _take(work: _Work, tried: Sequence[int]) -> int | None:
    """An hour that nobody works on, locked; None: there is none."""
    with transaction(work.connection, _TRANSACTION_SECONDS) as cursor:
        cursor.execute(_OPEN, (*work.model, *work.hours, list(tried)))
        for (chunk,) in cursor.fetchall():
            cursor.execute(_TAKE, (_LOCKS, chunk))
            if cursor.fetchone() == (True,):
                return int(chunk)
    return None


def _rescore_hour(work: _Work, chunk: int) -> int:
    """Does what is left of an hour; gives the posts read."""
    with transaction(work.connection, _TRANSACTION_SECONDS) as cursor:
        cursor.execute(_PLACE, (chunk,))
        place = cursor.fetchone()
    if place is None:  # Another worker has finished it between our two questions.
        return 0
    hour, *rest = place
    at: tuple[Any, ...] = tuple(rest)
    after: Key = at if at[0] is not None else (hour, "", "")
    read = 0
    began = time.monotonic()
    for posts in _posts(work, hour, after):
        at = _rescore(work, chunk, at, posts)
        read += len(posts)
        time.sleep((time.monotonic() - began) * (1 / work.share - 1))
        began = time.monotonic()
    with transaction(work.connection, _TRANSACTION_SECONDS) as cursor:
        cursor.execute(_DONE, (chunk, *at))
    return read


def _rescore(
    work: _Work, chunk: int, at: tuple[Any, ...], posts: Sequence[Read]
) -> tuple[Any, ...]:
    """Scores some posts and stores them with the place reached, which it gives."""
    answers = _score(work, [post[3] for post in posts])
    scored = [(post, answer) for post, answer in zip(posts, answers, strict=True) if answer]
    new = posts[-1][:3]
    with transaction(work.connection, _TRANSACTION_SECONDS) as cursor:
        columns = [list(column) for column in zip(*(post[:3] for post, _ in scored), strict=True)]
        if scored:
            created_at, source, id_ = columns
            label, *probabilities = zip(*(answer for _, answer in scored), strict=True)
            cursor.execute(
                _STORE,
                (*work.model, source, id_, created_at, list(label), *map(list, probabilities)),
            )
        rejected = len(posts) - len(scored)
        cursor.execute(_ADVANCE, (*new, len(posts), rejected, chunk, *at))
        if cursor.rowcount != 1:
            raise TemporaryError("this hour has been begun anew; run the backfill again")
    return new


def _score(work: _Work, texts: Sequence[str]) -> list[tuple[str, float, float, float] | None]:
    """Label and probabilities of each text; None for one that the model rejects."""
    try:
        answer = _patiently(lambda: _ask(work, texts))
    except (RejectedTextsError, FailedTextsError):
        if len(texts) == 1:
            return [None]
        half = len(texts) // 2
        return _score(work, texts[:half]) + _score(work, texts[half:])
    probabilities = answer.probabilities.round(6)
    return [
        (label, *row)
        for label, row in zip(labels_of(answer.probabilities), probabilities.tolist(), strict=True)
    ]


def _ask(work: _Work, texts: Sequence[str]) -> Scored:
    try:
        answer = work.client.score(texts)
    except FailedTextsError as exc:
        if not work.client.ready():
            raise TemporaryError(f"the predictor fails and is not ready: {exc}") from exc
        raise
    if answer.model_version != work.model[1]:
        raise OtherVersionError(
            f"the predictor now serves version {answer.model_version}, not {work.model[1]}; what "
            "is done stays: run this again where that version is served"
        )
    return answer


def _patiently(action: Callable[[], T]) -> T:
    """Asks again while the predictor is away, for a while."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return action()
        except TemporaryError as exc:
            if time.monotonic() > deadline:
                raise
            log.warning("backfill.waiting", extra={"reason": str(exc)})
        time.sleep(_PAUSE_SECONDS)


def _posts(work: _Work, hour: datetime, after: Key) -> Iterator[list[Read]]:
    """An hour's scored posts from a place on, a few at a time."""
    memory = pick(work.connection, hour.date())
    if work.files is None or memory is None or memory.posts == memory.in_warehouse:
        return _from_warehouse(work.connection, hour, after)
    return _from_lake(work.files, hour, after)


def _from_warehouse(connection: Connection, hour: datetime, after: Key) -> Iterator[list[Read]]:
    while True:
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            # The first bound is for the index; it alone would give some posts twice.
            cursor.execute(_READ, (after[0], hour + _HOUR, *after, _POSTS))
            posts: list[Read] = cursor.fetchall()
        if not posts:
            return
        yield posts
        after = posts[-1][:3]


def _from_lake(files: Files, hour: datetime, after: Key) -> Iterator[list[Read]]:
    """What has been pruned is in the lake only."""
    columns = ("created_at", "source", "id", "text", "label")
    end = pa.scalar(hour + _HOUR, pa.timestamp("us", "UTC"))
    for batch in files.read(hour.date(), columns, since=after[0]):
        times = batch.column("created_at")
        inside = pc.and_(
            pc.and_(pc.greater_equal(times, pa.scalar(after[0], times.type)), pc.less(times, end)),
            pc.is_valid(batch.column("label")),
        )
        near = batch.filter(inside)
        rows = zip(*(near.column(name).to_pylist() for name in columns[:4]), strict=True)
        posts: list[Read] = [row for row in rows if row[:3] > after]
        for start in range(0, len(posts), _POSTS):
            yield posts[start : start + _POSTS]
        if pc.any(pc.greater_equal(times, end)).as_py():
            return


def _progress(work: _Work) -> tuple[int, int, int]:
    """Hours not done, posts read, posts expected."""
    with transaction(work.connection, _TRANSACTION_SECONDS) as cursor:
        cursor.execute(_PROGRESS, (*work.model, *work.hours))
        ((left, read, expected),) = cursor.fetchall()
    return left, read, expected


def _report(work: _Work, read: int, seconds: float) -> None:
    left, by_all, expected = _progress(work)
    log.info(
        "backfill.hour",
        extra={
            "posts_per_second": round(read / seconds),
            "read_by_all": by_all,
            "of": expected,
            "hours_left": left,
        },
    )
