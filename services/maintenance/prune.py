"""Retention: deletes what is older than the settings allow. The rollups hold no person's words and
stay.

The mark `retention.complete_since` moves before the first post is deleted, so that a prune that is
cut short at any point leaves nothing that `rollup_errors` would call wrong; the next one goes on.

Where there is a lake, a post is deleted only when the lake has it: day by day, and only while the
warehouse holds exactly those of the day's posts that were there when its file was written.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.core.lake import exclusive
from services.core.postgres import Connection, transaction
from services.core.settings import PostgresSettings

log = logging.getLogger(__name__)

_BATCH_ROWS: Final = 10_000
"""Rows in one transaction: small, so that writers and replicas keep up."""
_TRANSACTION_SECONDS: Final = 60.0
_APPLICATION: Final = "moodstream prune"

# Whole minutes, as the rollups have. Never back: what was deleted does not return with more days.
_MARK: Final = """
INSERT INTO retention (complete_since)
VALUES (date_trunc('minute', now() - make_interval(days => %s)))
ON CONFLICT (only_row) DO UPDATE
    SET complete_since = greatest(retention.complete_since, excluded.complete_since),
        updated_at = clock_timestamp()
RETURNING date_trunc('minute', now() - make_interval(days => %s))
"""

_AGE: Final = {
    "posts": "created_at",
    "dead_letters": "created_at",
    "outbox": "delivered_at",
    "shadow_predictions": "stored_at",
    "shadow_batches": "stored_at",
    "rescored_predictions": "stored_at",
    "alerts": "closed_at",
    "deliveries": "CASE WHEN state <> 'pending' THEN created_at END",
}
"""What tells a row's age; what is not over yet or was never delivered has none and stays. Attempts
go with their deliveries, corrections with their posts; promotions are the history of what served,
hold nobody's words, and stay.
"""

# Posts and what models said need an index for it: the others are few, and a scan of 300,000 takes
# 0.2 s.
_DELETE: Final = """
DELETE FROM {table} WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {table} WHERE {age} < %s ORDER BY {age} LIMIT %s
))
"""

_IN_LAKE: Final = """
SELECT day FROM lake_days WHERE day <= %s AND in_warehouse > 0 ORDER BY day
"""
# One statement sees one moment: a post that comes meanwhile makes the count differ from then on.
_DELETE_DAY: Final = """
WITH current AS (
    SELECT day, day::timestamp AT TIME ZONE 'UTC' AS since,
           (day + 1)::timestamp AT TIME ZONE 'UTC' AS until
    FROM lake_days WHERE day = %(day)s AND NOT stale AND in_warehouse = (
        SELECT count(*) FROM posts
        WHERE created_at >= %(day)s::timestamp AT TIME ZONE 'UTC'
            AND created_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC')
), gone AS (
    DELETE FROM posts WHERE ctid = ANY (ARRAY(
        SELECT posts.ctid FROM posts, current
        WHERE created_at >= since AND created_at < least(until, %(before)s)
        ORDER BY created_at LIMIT %(rows)s))
    RETURNING 1
), counted AS (
    SELECT count(*) AS posts FROM gone
)
UPDATE lake_days SET in_warehouse = in_warehouse - counted.posts
FROM counted WHERE day = %(day)s RETURNING counted.posts
"""


@dataclass(frozen=True)
class Pruned:
    """What was deleted."""

    before: datetime
    posts: int
    dead_letters: int
    outbox: int
    shadow_predictions: int
    shadow_batches: int
    rescored_predictions: int
    alerts: int
    deliveries: int
    posts_kept_for_lake: int
    """Old enough to go, but the lake has not got them yet."""


def prune(settings: PostgresSettings, days: int) -> Pruned:
    """Deletes what is older than so many days. Raises TemporaryError when the database is away or a
    job of the lake is at work; what was deleted until then stays deleted.
    """
    with exclusive(settings, _APPLICATION) as connection:
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            cursor.execute(_MARK, (days, days))
            ((before,),) = cursor.fetchall()
            cursor.execute("SELECT count(*) > 0 FROM lake")
            ((has_lake,),) = cursor.fetchall()
        counts = {
            table: sum(
                _batches_in_lake(connection, before)
                if has_lake and table == "posts"
                else _batches(connection, table, before)
            )
            for table in _AGE
        }
        kept = _count_older(connection, before)
    if kept:
        log.warning(
            "prune.kept_for_lake",
            extra={"posts": kept, "to_do": "run python -m services.etl daily, then prune again"},
        )
    return Pruned(before, **counts, posts_kept_for_lake=kept)


def _batches(connection: Connection, table: str, before: datetime) -> Iterator[int]:
    """Deletes one batch after the other; gives the rows of each."""
    statement = _DELETE.format(table=table, age=_AGE[table])
    deleted = _BATCH_ROWS
    while deleted == _BATCH_ROWS:
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            cursor.execute(statement, (before, _BATCH_ROWS))
            deleted = cursor.rowcount
        yield deleted


def _batches_in_lake(connection: Connection, before: datetime) -> Iterator[int]:
    """As `_batches`, of the posts that the lake has."""
    with transaction(connection, _TRANSACTION_SECONDS) as cursor:
        cursor.execute(_IN_LAKE, (before.date(),))
        days = [day for (day,) in cursor.fetchall()]
    for day in days:
        deleted = _BATCH_ROWS
        while deleted == _BATCH_ROWS:
            with transaction(connection, _TRANSACTION_SECONDS) as cursor:
                cursor.execute(_DELETE_DAY, {"day": day, "before": before, "rows": _BATCH_ROWS})
                ((deleted,),) = cursor.fetchall()
            yield deleted


def _count_older(connection: Connection, before: datetime) -> int:
    with transaction(connection, _TRANSACTION_SECONDS) as cursor:
        cursor.execute("SELECT count(*) FROM posts WHERE created_at < %s", (before,))
        ((posts,),) = cursor.fetchall()
    return int(posts)
