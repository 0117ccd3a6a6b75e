"""Retention: deletes what is older than the settings allow. The rollups hold no person's words and
stay.

The mark `retention.complete_since` moves before the first post is deleted, so that a prune that is
cut short at any point leaves nothing that `rollup_errors` would call wrong; the next one goes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.core.postgres import Connection, connect, transaction
from services.core.settings import PostgresSettings

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
}
"""The column that tells a row's age; what was never delivered has none and stays. Corrections go
with their posts; promotions are the history of what served, hold nobody's words, and stay.
"""

# Posts and shadow predictions need an index for it: the others are few, and a scan of 300,000 takes
# 0.2 s.
_DELETE: Final = """
DELETE FROM {table} WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {table} WHERE {age} < %s ORDER BY {age} LIMIT %s
))
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


def prune(settings: PostgresSettings, days: int) -> Pruned:
    """Deletes what is older than so many days. Raises TemporaryError when the database is away;
    what was deleted until then stays deleted.
    """
    connection = connect(settings, _APPLICATION)
    try:
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            cursor.execute(_MARK, (days, days))
            ((before,),) = cursor.fetchall()
        counts = {table: sum(_batches(connection, table, before)) for table in _AGE}
    finally:
        connection.close()
    return Pruned(before, **counts)


def _batches(connection: Connection, table: str, before: datetime) -> Iterator[int]:
    """Deletes one batch after the other; gives the rows of each."""
    statement = _DELETE.format(table=table, age=_AGE[table])
    deleted = _BATCH_ROWS
    while deleted == _BATCH_ROWS:
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            cursor.execute(statement, (before, _BATCH_ROWS))
            deleted = cursor.rowcount
        yield deleted
