"""Deletion notices: a post that its author or a court has withdrawn goes everywhere, and so does
what was counted of it.

One transaction holds a few notices whole: the post, what models and people said of it, its part of
the rollups, and the mark that its day in the lake is to be written anew. So a run that is cut short
has either done a notice or not begun it. Notices stay, because Kafka may deliver a post again.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from services.core.errors import SettingsError
from services.core.events import ALL_TOPICS
from services.core.postgres import Connection, Cursor, connect, transaction
from services.core.settings import PostgresSettings
from services.etl.files import Files

log = logging.getLogger(__name__)

_TRANSACTION_SECONDS: Final = 60.0
_BATCH: Final = 500
"""Notices in one transaction: small, because it makes the consumer wait for the minutes it
corrects.
"""
_SEARCHED: Final = 10_000
"""Notices that one reading of the lake looks for."""
_COUNTED: Final = ("source", "id", "created_at", "topics", "label", "score")

Counted = tuple[Any, ...]
"""What the rollups know of a post: the columns of _COUNTED."""

_NOTICE: Final = """
INSERT INTO deletion_notices (source, id) VALUES (%s, %s) ON CONFLICT DO NOTHING
"""
# Applied ones as well: the post may have come again.
_STORED: Final = """
DELETE FROM posts USING (
    SELECT source, id FROM deletion_notices JOIN posts USING (source, id) LIMIT %s
) AS noticed
WHERE (posts.source, posts.id) = (noticed.source, noticed.id)
RETURNING posts.source, posts.id, created_at, topics, label::text, score
"""
_WAITING: Final = """
SELECT source, id FROM deletion_notices
WHERE applied_at IS NULL AND (source, id) > (%s, %s) ORDER BY source, id LIMIT %s
"""
_STILL_WAITING: Final = """
SELECT source, id FROM deletion_notices
JOIN unnest(%s::text[], %s::text[]) AS key (source, id) USING (source, id)
WHERE applied_at IS NULL FOR UPDATE OF deletion_notices
"""

_GONE: Final = """
CREATE TEMPORARY TABLE gone (
    source text, id text, created_at timestamptz, topics text[], label sentiment, score real
) ON COMMIT DROP
"""
_FEWER: Final = """
CREATE TEMPORARY TABLE fewer ON COMMIT DROP AS
SELECT topic, date_trunc('minute', created_at) AS minute, count(*) AS posts,
       count(*) FILTER (WHERE label = 'negative') AS negative,
       count(*) FILTER (WHERE label = 'neutral') AS neutral,
       count(*) FILTER (WHERE label = 'positive') AS positive,
       count(*) FILTER (WHERE label IS NULL) AS unscored,
       coalesce(sum(score::numeric), 0) AS score_sum,
       coalesce(sum(score::numeric * score::numeric), 0) AS score_square_sum
FROM gone, unnest(topics || %s::text) AS topic GROUP BY 1, 2
"""
# In key order, as the consumer takes them.
_LOCK: Final = """
SELECT FROM rollup_minute JOIN fewer USING (topic, minute)
ORDER BY topic, minute, shard FOR UPDATE OF rollup_minute
"""
# Nobody knows which writer counted a post; only a minute's sum over the writers means anything.
_SUBTRACT: Final = """
UPDATE rollup_minute AS rollup
SET posts = rollup.posts - fewer.posts, negative = rollup.negative - fewer.negative,
    neutral = rollup.neutral - fewer.neutral, positive = rollup.positive - fewer.positive,
    unscored = rollup.unscored - fewer.unscored, score_sum = rollup.score_sum - fewer.score_sum,
    score_square_sum = rollup.score_square_sum - fewer.score_square_sum
FROM fewer
WHERE (rollup.topic, rollup.minute) = (fewer.topic, fewer.minute) AND rollup.shard = (
    SELECT min(shard) FROM rollup_minute AS shards
    WHERE (shards.topic, shards.minute) = (fewer.topic, fewer.minute)
)
"""
_EMPTY: Final = """
DELETE FROM rollup_minute AS rollup USING fewer
WHERE (rollup.topic, rollup.minute) = (fewer.topic, fewer.minute) AND 0 = (
    SELECT sum(posts) FROM rollup_minute AS shards
    WHERE (shards.topic, shards.minute) = (fewer.topic, fewer.minute)
)
"""
_SAID: Final = """
DELETE FROM {table} AS said USING gone WHERE (said.source, said.id) = (gone.source, gone.id)
"""
_STALE: Final = """
UPDATE lake_days SET stale = true
WHERE day IN (SELECT (created_at AT TIME ZONE 'UTC')::date FROM gone)
"""
_APPLIED: Final = """
UPDATE deletion_notices SET applied_at = clock_timestamp()
WHERE applied_at IS NULL AND (source, id) IN (
    SELECT * FROM unnest(%s::text[], %s::text[]) AS key (source, id))
"""


def notice(settings: PostgresSettings, posts: Sequence[str]) -> int:
    """Takes notices in, each as source/id; gives the number of new ones. Raises SettingsError for
    one that is neither.
    """
    keys = [tuple(post.split("/", 1)) for post in posts]
    for key, post in zip(keys, posts, strict=True):
        if len(key) != 2 or not all(key) or "\0" in post or not post.isprintable():
            raise SettingsError(f"{post!r} names no post; write source/id, as in bluesky/3kabc")
    connection = connect(settings, "moodstream delete")
    try:
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            new = 0
            for key in keys:
                cursor.execute(_NOTICE, key)
                new += cursor.rowcount
    finally:
        connection.close()
    return new


def apply(connection: Connection, files: Files | None) -> Mapping[str, Any]:
    """Applies every notice; the lake's days are then marked to be written anew.

    `connection` holds the lake's lock. `files`: None where there is no lake.
    """
    stored = sum(iter(lambda: _apply_stored(connection), 0))
    archived = _apply_waiting(connection, files)
    log.info("deletions.applied", extra={"stored": stored, "only_in_lake": archived})
    return {"posts_deleted": stored, "posts_deleted_only_in_lake": archived}


def _apply_stored(connection: Connection) -> int:
    """A few posts that are in the warehouse; gives how many there were."""
    with transaction(connection, _TRANSACTION_SECONDS) as cursor:
        cursor.execute(_STORED, (_BATCH,))
        gone = cursor.fetchall()
        if gone:
            _forget(cursor, gone)
    return len(gone)


def _apply_waiting(connection: Connection, files: Files | None) -> int:
    """Notices of posts that are not in the warehouse: perhaps the lake still has them."""
    found = 0
    after = ("", "")
    while True:
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            cursor.execute(_WAITING, (*after, _SEARCHED))
            keys: list[tuple[str, str]] = cursor.fetchall()
        if not keys:
            return found
        after = keys[-1]
        if files:
            for day in sorted(files.days()):
                for gone in _search(files, day, set(keys)):
                    found += _apply_archived(connection, gone)
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            cursor.execute(_APPLIED, _columns(keys))


def _search(files: Files, day: date, keys: set[tuple[str, str]]) -> Iterable[list[Counted]]:
    ids = pa.array({id_ for _, id_ in keys}, pa.string())
    for batch in files.read(day, _COUNTED):
        near = batch.filter(pc.is_in(batch.column("id"), ids))
        rows = zip(*(near.column(name).to_pylist() for name in _COUNTED), strict=True)
        if gone := [row for row in rows if row[:2] in keys]:
            yield gone


def _apply_archived(connection: Connection, rows: list[Counted]) -> int:
    """Posts that only the lake has, of one batch of a file."""
    with transaction(connection, _TRANSACTION_SECONDS) as cursor:
        cursor.execute(_STILL_WAITING, _columns(rows))
        waiting = set(cursor.fetchall())
        if gone := [row for row in rows if row[:2] in waiting]:
            _forget(cursor, gone)
    return len(gone)


def _forget(cursor: Cursor, gone: Sequence[Counted]) -> None:
    """All that follows from these posts being gone."""
    cursor.execute(_GONE)
    cursor.executemany("INSERT INTO gone VALUES (%s, %s, %s, %s, %s, %s)", gone)
    cursor.execute(_FEWER, (ALL_TOPICS,))
    cursor.execute(_LOCK)
    cursor.execute(_SUBTRACT)
    cursor.execute(_EMPTY)
    for table in ("shadow_predictions", "rescored_predictions"):
        cursor.execute(_SAID.format(table=table))
    cursor.execute(_STALE)
    cursor.execute(_APPLIED, _columns(gone))


def _columns(keys: Iterable[Sequence[Any]]) -> tuple[list[str], list[str]]:
    """Sources and ids, as two arrays."""
    rows = list(keys)
    return [row[0] for row in rows], [row[1] for row in rows]
