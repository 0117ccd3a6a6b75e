"""Writes the lake: each day whose posts have changed since its file was written.

A day that the warehouse still has whole is written from there. One that has been pruned is merged:
what the file holds, less what had to be deleted, and what has come since. Both are sorted alike, so
neither is ever whole in memory. What was written is remembered with the number of the day's posts
that are in the warehouse as well: while that number holds, every one of them is in the file, and
only then does the retention delete them.
"""

import heapq
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import pyarrow as pa

from services.core.errors import SettingsError
from services.core.postgres import Connection, Cursor, connect, transaction
from services.core.settings import PostgresSettings
from services.etl.files import COLUMNS, SCHEMA, Files, LakeError

log = logging.getLogger(__name__)

_TRANSACTION_SECONDS: Final = 60.0
_DAY_SECONDS: Final = 3_600.0
"""Longest time that reading one day may take."""
_ROWS: Final = 20_000
"""Rows in memory, and in one row group of a file."""

_CREATED_AT: Final = COLUMNS.index("created_at")

Row = tuple[Any, ...]
"""One post in the order of COLUMNS."""

# Only the first run: the retention holds what has come since then back for the lake.
_REGISTER: Final = """
INSERT INTO lake (uri, complete_since)
VALUES (%s, coalesce((SELECT (complete_since + interval '1 day - 1 microsecond')::date
                      FROM retention), '-infinity'))
ON CONFLICT DO NOTHING
"""

_CHANGED: Final = """
WITH present AS (
    SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS posts FROM posts GROUP BY 1
)
SELECT day FROM present FULL JOIN lake_days USING (day)
WHERE stale IS NOT FALSE OR coalesce(present.posts, 0) <> in_warehouse
ORDER BY day
"""

_READ: Final = f"""
SELECT {", ".join(COLUMNS)} FROM posts WHERE created_at >= %s AND created_at < %s
ORDER BY created_at, source COLLATE "C", id COLLATE "C"
"""  # noqa: S608 - the columns are a constant

_NOTICED: Final = """
SELECT source, id FROM deletion_notices
JOIN unnest(%s::text[], %s::text[]) AS row (source, id) USING (source, id)
"""

_RECORD: Final = """
INSERT INTO lake_days (day, posts, in_warehouse, bytes, revision) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (day) DO UPDATE SET
    posts = excluded.posts, in_warehouse = excluded.in_warehouse, stale = false,
    bytes = excluded.bytes, revision = excluded.revision, written_at = clock_timestamp()
"""


@dataclass(frozen=True)
class _Day:
    """What the warehouse remembers of a day's file."""

    posts: int
    in_warehouse: int
    bytes: int
    revision: int


class _Count:
    """Rows that have passed."""

    def __init__(self) -> None:
        self.rows = 0

    def through(self, rows: Iterator[list[Row]]) -> Iterator[list[Row]]:
        """The same rows, counted."""
        for some in rows:
            self.rows += len(some)
            yield some


def write(connection: Connection, settings: PostgresSettings, files: Files) -> Mapping[str, Any]:
    """Writes every day that has changed, one after the other; what was written stays written.

    `connection` holds the lake's lock. Raises TemporaryError, or LakeError for a file that is lost
    and cannot be written anew; the other days are written first.
    """
    _register(connection, files.uri)
    files.sweep()
    changed, lost = _changed(connection, files)
    written = posts = 0
    for number, day in enumerate(changed, start=1):
        rows = _write_day(connection, settings, files, day)
        written, posts = written + 1, posts + rows
        log.info(
            "lake.day", extra={"day": day, "posts": rows, "of_days": f"{number}/{len(changed)}"}
        )
    if lost:
        raise LakeError(
            f"the lake has lost {', '.join(lost)}, and the warehouse no longer has all of their "
            "posts: restore these files from a copy of the store, then run this again"
        )
    return {"days_written": written, "posts_written": posts}


def pick(connection: Connection, day: date) -> _Day | None:
    """What is remembered of a day's file; None: it has none."""
    with transaction(connection, _TRANSACTION_SECONDS) as cursor:
        cursor.execute(
            "SELECT posts, in_warehouse, bytes, revision FROM lake_days WHERE day = %s", (day,)
        )
        row = cursor.fetchone()
    return _Day(*row) if row else None


def bounds(day: date) -> tuple[datetime, datetime]:
    """Start and end of a day, UTC."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return start, start + timedelta(days=1)


def check(connection: Connection, uri: str | None) -> None:
    """Raises SettingsError when the posts of this warehouse go to another lake than this one: a
    deletion would leave them there.
    """
    with transaction(connection, _TRANSACTION_SECONDS) as cursor:
        cursor.execute("SELECT uri FROM lake")
        row = cursor.fetchone()
    if row is not None and row[0] != uri:
        raise SettingsError(
            f"MOODSTREAM_LAKE_URI is {uri or 'unset'}, but the posts of this warehouse go to "
            f"{row[0]}, where a deletion would leave them: set it to that"
        )


def _register(connection: Connection, uri: str) -> None:
    with transaction(connection, _TRANSACTION_SECONDS) as cursor:
        cursor.execute(_REGISTER, (uri,))
        cursor.execute("SELECT uri FROM lake")
        ((registered,),) = cursor.fetchall()
    if registered != uri:
        raise SettingsError(
            f"MOODSTREAM_LAKE_URI is {uri}, but the posts of this warehouse go to {registered}; "
            "after the files have been moved, set the column uri of its table lake"
        )


def _changed(connection: Connection, files: Files) -> tuple[list[date], list[str]]:
    """The days to write, and those whose file is gone while the warehouse lacks their posts."""
    with transaction(connection, _DAY_SECONDS) as cursor:
        cursor.execute(_CHANGED)
        days = {day for (day,) in cursor.fetchall()}
        cursor.execute("SELECT day, posts, in_warehouse, bytes, revision FROM lake_days")
        remembered = {day: _Day(*rest) for day, *rest in cursor.fetchall()}
    found = files.days()
    # Nobody remembers these: a run was cut off, or the warehouse comes from an older copy.
    days |= found.keys() - remembered.keys()
    lost = []
    for day, memory in remembered.items():
        if found.get(day) == memory.bytes:
            continue
        if memory.posts == memory.in_warehouse or (
            # Written by a run that was cut off before it could say so.
            day in found and files.revision(day) > memory.revision
        ):
            days.add(day)
        else:
            days.discard(day)
            lost.append(day.isoformat())
    return sorted(days), sorted(lost)


def _write_day(connection: Connection, settings: PostgresSettings, files: Files, day: date) -> int:
    """Writes one day's file and remembers it; gives its rows."""
    memory, found = pick(connection, day), files.days()
    revision = memory.revision + 1 if memory else 1
    here, all_rows = _Count(), _Count()
    reading = connect(settings, "moodstream lake")
    try:
        with transaction(reading, _DAY_SECONDS) as cursor:
            # The store may keep a writer waiting for longer than a silent client usually lives.
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = '5min'")
            rows = here.through(_warehouse(reading, day))
            if day in found and (memory is None or memory.posts > memory.in_warehouse):
                rows = _merged(_lake(connection, files, day), rows)
            batches = (_batch(some) for some in all_rows.through(rows))
            first = next(batches, None)
            if first is not None:
                size = files.write(day, revision, _chain(first, batches))
    finally:
        reading.close()
    with transaction(connection, _TRANSACTION_SECONDS) as cursor:
        if first is None:
            cursor.execute("DELETE FROM lake_days WHERE day = %s", (day,))
            cursor.execute("DELETE FROM daily_aggregates WHERE day = %s", (day,))
            cursor.execute("DELETE FROM aggregate_differences WHERE day = %s", (day,))
        else:
            cursor.execute(_RECORD, (day, all_rows.rows, here.rows, size, revision))
    if first is None and day in found:
        files.remove(day)
    return all_rows.rows


def _chain(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _warehouse(connection: Connection, day: date) -> Iterator[list[Row]]:
    """A day's rows, a few at a time, all of one moment: a server-side cursor."""
    cursor: Cursor = connection.cursor(f"day_{uuid4().hex}")
    cursor.itersize = _ROWS
    cursor.execute(_READ, bounds(day))
    while rows := cursor.fetchmany(_ROWS):
        yield rows
    cursor.close()


def _lake(connection: Connection, files: Files, day: date) -> Iterator[list[Row]]:
    """The rows of a day's file that may stay."""
    for batch in files.read(day):
        rows: list[Row] = list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            cursor.execute(_NOTICED, ([row[0] for row in rows], [row[1] for row in rows]))
            gone = set(cursor.fetchall())
        yield [row for row in rows if row[:2] not in gone]


def _merged(*sources: Iterator[list[Row]]) -> Iterator[list[Row]]:
    """Rows of several sources in one order, each post once."""
    flat = ((row for some in source for row in some) for source in sources)
    last: Row | None = None
    rows: list[Row] = []
    for row in heapq.merge(*flat, key=_key):
        if last is not None and _key(row) == _key(last):
            continue
        last = row
        rows.append(row)
        if len(rows) == _ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


def _key(row: Row) -> Row:
    return row[_CREATED_AT], row[0], row[1]


def _batch(rows: list[Row]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )
