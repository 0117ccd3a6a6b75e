"""Downloads of everything that is in the warehouse, and the feed of alerts.

Rows go from a cursor on the database's side straight to the client, a few thousand at a time, so
that an export of any size takes the same memory. What is cut off on the way ends with a broken
connection, never with a file that looks whole. XLSX alone is written to a temporary file first: the
format ends with what it begins with.
"""

import csv
import io
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import BoundedSemaphore
from typing import Annotated, Any, Final
from urllib.parse import urlencode
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import anyio
import orjson
import xlsxwriter
from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Message, Receive, Scope, Send
from xlsxwriter.exceptions import FileSizeError

from services.core.batches import batches
from services.core.errors import TemporaryError
from services.core.events import ALL_TOPICS
from services.core.postgres import Cursor, connect, transaction
from services.core.settings import PostgresSettings
from services.dashboard.access import viewer
from services.dashboard.history import BadRequestError, Label, Moment, Reader, Word, known_zone

# Read while Arrow is imported; its own allocator takes 30 MB more.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
import pyarrow as pa
from pyarrow import json, parquet

MOST_XLSX_ROWS: Final = 1_048_576
"""What a sheet of Excel holds, the header included."""
_AT_ONCE: Final = 4
_XLSX_AT_ONCE: Final = 1
"""A large one takes 2 GB of disk."""
_EXPORT_SECONDS: Final = 3600.0
"""One export reads one moment of the database, which keeps old rows from being cleaned up."""
_STALLED_SECONDS: Final = 60
"""How long a client may take nothing before its export ends."""
_ROW_GROUP: Final = 20_000
_FILE_CHUNK_BYTES: Final = 262_144

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""A text that begins with one of these, the full-width forms too, is a formula to a spreadsheet;
quoting does not help.
"""
_SEPARATOR: Final = "; "
"""Between the topics of a post, where a format has no lists."""
_EXACT_DIGITS: Final = 15
"""Excel rounds numbers that are longer."""

Rows = Iterator[list[tuple[Any, ...]]]


class What(StrEnum):
    """What can be exported."""

    POSTS = "posts"
    MINUTES = "minutes"
    HOURS = "hours"
    DAYS = "days"
    PREDICTIONS = "predictions"
    CORRECTIONS = "corrections"
    PROMOTIONS = "promotions"


class Format(StrEnum):
    """How it is written."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    XLSX = "xlsx"


class Kind(StrEnum):
    """What a column holds."""

    TEXT = "text"
    ID = "id"
    TEXTS = "texts"
    TIME = "time"
    DATE = "date"
    WHOLE = "whole"
    NUMBER = "number"


class Export(BaseModel):
    """What is asked for; the filters have the names that they have everywhere."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    what: What
    """posts, minutes, hours, days, predictions, corrections or promotions."""
    format: Format = Format.CSV
    """csv, jsonl, parquet or xlsx."""
    topic: Word | None = Field(default=None, max_length=256)
    """Of posts: those of one topic. Of minutes, hours and days: one topic, `*` for the sum of all;
    without it every topic and the sum.
    """
    label: Label | None = None
    """negative, neutral or positive."""
    language: Word | None = Field(default=None, max_length=35)
    """ISO 639 code."""
    text: Word | None = Field(default=None, max_length=200)
    """Contained in the post, whatever its case."""
    since: Moment | None = None
    """First moment, with its zone."""
    until: Moment | None = None
    """First moment that is no longer wanted, with its zone."""
    zone: str = Field(default="UTC", max_length=64)
    """IANA name of the time zone in which days begin. All times are written in UTC."""
    excel: bool = False
    """CSV only: a byte-order mark, and long numeric ids as text, so that a double click on the file
    opens it right in Excel.
    """


@dataclass(frozen=True)
class _Table:
    """One kind of export: its columns, its query with `{where}`, and the SQL of each filter."""

    columns: Mapping[str, Kind]
    query: str
    filters: Mapping[str, str]


_LABEL: Final = "label = %(label)s::sentiment"
_OF_POSTS: Final = {
    "topic": "%(topic)s = ANY (posts.topics)",
    "language": "posts.language = %(language)s",
    "text": "strpos(lower(posts.text), lower(%(text)s)) > 0",
}
_WHEN_POSTED: Final = {
    "since": "posts.created_at >= %(since)s",
    "until": "posts.created_at < %(until)s",
}
_SCORES: Final = {
    "p_negative": Kind.NUMBER,
    "p_neutral": Kind.NUMBER,
    "p_positive": Kind.NUMBER,
    "score": Kind.NUMBER,
    "model_name": Kind.TEXT,
    "model_version": Kind.TEXT,
}

_POSTS = _Table(
    {
        "source": Kind.TEXT,
        "id": Kind.ID,
        "created_at": Kind.TIME,
        "text": Kind.TEXT,
        "language": Kind.TEXT,
        "topics": Kind.TEXTS,
        "label": Kind.TEXT,
        **_SCORES,
        "stored_at": Kind.TIME,
    },
    """
    SELECT source, id, created_at, text, language, topics, label::text, p_negative, p_neutral,
           p_positive, score, model_name, model_version, stored_at
    FROM posts WHERE {where} ORDER BY created_at, source, id
    """,
    {**_OF_POSTS, **_WHEN_POSTED, "label": f"posts.{_LABEL}"},
)

_PREDICTIONS = _Table(
    {
        "role": Kind.TEXT,
        "source": Kind.TEXT,
        "id": Kind.ID,
        "created_at": Kind.TIME,
        "label": Kind.TEXT,
        **_SCORES,
        "stored_at": Kind.TIME,
    },
    """
    SELECT role, source, id, created_at, label::text, p_negative, p_neutral, p_positive, score,
           model_name, model_version, stored_at
    FROM (
        SELECT 'champion' AS role, source, id, created_at, text, language, topics, label,
               p_negative, p_neutral, p_positive, score, model_name, model_version, stored_at
        FROM posts WHERE label IS NOT NULL
        UNION ALL
        SELECT 'challenger', source, id, created_at, text, language, topics, shadow.label,
               shadow.p_negative, shadow.p_neutral, shadow.p_positive, shadow.score,
               shadow.model_name, shadow.model_version, shadow.stored_at
        FROM posts JOIN shadow_predictions AS shadow USING (source, id)
    ) AS posts
    WHERE {where} ORDER BY created_at, source, id, role
    """,
    {**_OF_POSTS, **_WHEN_POSTED, "label": f"posts.{_LABEL}"},
)

_CORRECTIONS = _Table(
    {
        "source": Kind.TEXT,
        "id": Kind.ID,
        "label": Kind.TEXT,
        "predicted_label": Kind.TEXT,
        "model_version": Kind.TEXT,
        "corrected_by": Kind.TEXT,
        "corrected_at": Kind.TIME,
        "language": Kind.TEXT,
        "text": Kind.TEXT,
    },
    """
    SELECT source, post_id, corrections.label::text, predicted_label::text,
           corrections.model_version, corrected_by, corrected_at, language, text
    FROM corrections JOIN posts USING (source)
    WHERE posts.id = post_id AND {where} ORDER BY corrections.id
    """,
    {
        **_OF_POSTS,
        "label": f"corrections.{_LABEL}",
        "since": "corrected_at >= %(since)s",
        "until": "corrected_at < %(until)s",
    },
)

_PROMOTIONS = _Table(
    {
        "alias": Kind.TEXT,
        "version": Kind.TEXT,
        "state": Kind.TEXT,
        "reason": Kind.TEXT,
        "checks": Kind.TEXT,
        "at": Kind.TIME,
    },
    "SELECT alias, version, state, reason, checks::text, at FROM promotions WHERE {where} "
    "ORDER BY at, id",
    {"since": "at >= %(since)s", "until": "at < %(until)s"},
)

_COUNTS: Final = {
    "posts": Kind.WHOLE,
    "negative": Kind.WHOLE,
    "neutral": Kind.WHOLE,
    "positive": Kind.WHOLE,
    "unscored": Kind.WHOLE,
    "average_score": Kind.NUMBER,
    "standard_error": Kind.NUMBER,
}


def _rollup(what: What, zone: str) -> _Table:
    """Counts by minute, hour or day. Days of a zone with half hours are made from minutes."""
    step = {What.MINUTES: "minute", What.HOURS: "hour", What.DAYS: "day"}[what]
    by_minute = what == What.MINUTES or (what == What.DAYS and not _whole_hours(zone))
    table, column = ("rollup_minute", "minute") if by_minute else ("rollup_hour", "hour")
    start = f"date_trunc('{step}', {column}, %(zone)s)"
    if what == What.DAYS:
        start = f"({start} AT TIME ZONE %(zone)s)::date"
    return _Table(
        {"topic": Kind.TEXT, step: Kind.DATE if what == What.DAYS else Kind.TIME, **_COUNTS},
        f"""
        SELECT topic, {start} AS start, sum(posts)::bigint, sum(negative)::bigint,
               sum(neutral)::bigint, sum(positive)::bigint, sum(unscored)::bigint,
               (sum(score_sum) / nullif(sum(posts - unscored), 0))::float8,
               sqrt(greatest(sum(score_square_sum) / nullif(sum(posts - unscored), 0)
                             - (sum(score_sum) / nullif(sum(posts - unscored), 0)) ^ 2, 0)
                    / nullif(sum(posts - unscored), 0))::float8
        FROM {table} WHERE {{where}} GROUP BY 1, 2 HAVING sum(posts) > 0 ORDER BY 2, 1
        """,  # noqa: S608 - constant text
        {
            "topic": "topic = %(topic)s",
            # Whole ones, or the first would look smaller than it was.
            "since": f"{column} >= date_trunc('{step}', %(since)s::timestamptz, %(zone)s)",
            "until": f"{column} < %(until)s",
        },
    )


def _whole_hours(zone: str) -> bool:
    """Whether the zone's midnights fall on whole hours of UTC, in summer and winter."""
    named = ZoneInfo(zone)
    year = datetime.now(UTC).year
    offsets = (datetime(year, month, 1, tzinfo=named).utcoffset() for month in (1, 7))
    return all(not (offset or timedelta()) % timedelta(hours=1) for offset in offsets)


def _plan(wanted: Export) -> tuple[_Table, str, dict[str, Any]]:
    """Table, SQL and its parameters. Raises BadRequestError for filters that the table has not."""
    known_zone(wanted.zone)
    tables = {
        What.POSTS: _POSTS,
        What.PREDICTIONS: _PREDICTIONS,
        What.CORRECTIONS: _CORRECTIONS,
        What.PROMOTIONS: _PROMOTIONS,
    }
    table = tables.get(wanted.what) or _rollup(wanted.what, wanted.zone)
    counted = "posts" in table.columns
    given = {
        name: value
        for name in ("topic", "label", "language", "text", "since", "until")
        if (value := getattr(wanted, name)) not in (None, "")
        and not (name == "topic" and value == ALL_TOPICS and not counted)
    }
    if foreign := [name for name in given if name not in table.filters]:
        raise BadRequestError(
            f"{foreign[0]}: {wanted.what} cannot be chosen by it, only by "
            f"{', '.join(sorted(table.filters))}; leave it out"
        )
    where = " AND ".join(table.filters[name] for name in given) or "true"
    return table, table.query.format(where=where), {**given, "zone": wanted.zone}


def stream(postgres: PostgresSettings, wanted: Export) -> Generator[bytes, None, None]:
    """The file, piece by piece; some pieces are empty. What can be wrong with the question is said
    before the first piece: BadRequestError for filters or for more rows than XLSX holds,
    TemporaryError when the database is away. TemporaryError later: the rest is lost.
    """
    table, query, parameters = _plan(wanted)
    connection = connect(postgres, "moodstream-export")
    try:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with transaction(connection, _EXPORT_SECONDS) as cursor:
            if wanted.format == Format.XLSX:
                _refuse_more_than_a_sheet(cursor, query, parameters)
            found = batches(cursor, query, parameters, 2 * _STALLED_SECONDS)
            yield from _written(wanted, table.columns, found)
    finally:
        connection.close()


def write(postgres: PostgresSettings, wanted: Export, path: Path) -> int:
    """Exports to a file and returns its size in bytes. Raises as `stream` does, and OSError; then
    there is no file.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            for piece in stream(postgres, wanted):
                file.write(piece)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path.stat().st_size


def _refuse_more_than_a_sheet(cursor: Cursor, query: str, parameters: Mapping[str, Any]) -> None:
    cursor.execute(
        f"SELECT count(*) FROM ({query} LIMIT {MOST_XLSX_ROWS}) AS found",  # noqa: S608 - ours
        parameters,
    )
    found = cursor.fetchone()
    if found is not None and found[0] >= MOST_XLSX_ROWS:
        raise BadRequestError(
            f"format: these are more than {MOST_XLSX_ROWS - 1:,} rows, the most that an XLSX sheet "
            "holds below its header; choose a shorter time with since and until, or csv or parquet"
        )


def _written(wanted: Export, columns: Mapping[str, Kind], rows: Rows) -> Iterator[bytes]:
    if wanted.format == Format.CSV:
        return _csv(columns, rows, wanted.excel)
    writers: dict[Format, Callable[[Mapping[str, Kind], Rows], Iterator[bytes]]] = {
        Format.JSONL: _jsonl,
        Format.PARQUET: _parquet,
        Format.XLSX: _xlsx,
    }
    return writers[wanted.format](columns, rows)


def _csv(columns: Mapping[str, Kind], rows: Rows, excel: bool) -> Iterator[bytes]:
    """RFC 4180, UTF-8, times as ISO-8601 in UTC, texts safe from being taken for formulas."""
    written: dict[Kind, Callable[[Any], str]] = {
        Kind.TEXT: _harmless,
        Kind.ID: _exact if excel else _harmless,
        Kind.TEXTS: lambda value: _harmless(_SEPARATOR.join(value)),
        Kind.TIME: _utc,
        Kind.DATE: date.isoformat,
        Kind.WHOLE: str,
        Kind.NUMBER: repr,
    }
    cells = [written[kind] for kind in columns.values()]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    if excel:
        buffer.write("\ufeff")
    writer.writerow(columns)
    for batch in rows:
        writer.writerows(
            [None if value is None else cell(value) for cell, value in zip(cells, row, strict=True)]
            for row in batch
        )
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue().encode()


def _harmless(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) else value


def _exact(value: str) -> str:
    """An id as Excel reads it without rounding it."""
    if len(value) > _EXACT_DIGITS and value.isascii() and value.isdigit():
        return f'="{value}"'
    return _harmless(value)


def _utc(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _jsonl(columns: Mapping[str, Kind], rows: Rows) -> Iterator[bytes]:
    """One object a line; times as ISO-8601 in UTC."""
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
    for batch in rows:
        yield b"".join(
            orjson.dumps(dict(zip(columns, row, strict=True)), option=options) for row in batch
        )


_ARROW: Final = {
    Kind.TEXT: pa.string(),
    Kind.ID: pa.string(),
    Kind.TEXTS: pa.list_(pa.string()),
    Kind.TIME: pa.timestamp("us", "UTC"),
    Kind.DATE: pa.date32(),
    Kind.WHOLE: pa.int64(),
    Kind.NUMBER: pa.float64(),
}


class _Pieces(io.RawIOBase):
    """A file that is only written, and taken away piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, piece: Any) -> int:
        taken = bytes(piece)
        self._pieces.append(taken)
        self._position += len(taken)
        return len(taken)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def _parquet(columns: Mapping[str, Kind], rows: Rows) -> Iterator[bytes]:
    """Row groups of 20,000, compressed with zstd."""
    schema = pa.schema([(name, _ARROW[kind]) for name, kind in columns.items()])
    # Rows become columns by way of JSON: Arrow imports pandas, where that is installed, to read
    # Python's lists, which takes 50 MB. Its reader of JSON knows no dates.
    read = pa.schema(
        [
            field.with_type(pa.string()) if pa.types.is_date(field.type) else field
            for field in schema
        ]
    )
    parsing = json.ParseOptions(explicit_schema=read, unexpected_field_behavior="error")
    sink = _Pieces()
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        waiting: list[pa.Table] = []
        for lines in _jsonl(columns, rows):
            reading = json.ReadOptions(use_threads=False, block_size=len(lines) + 1)
            table = json.read_json(pa.BufferReader(lines), reading, parsing)
            waiting.append(table.cast(schema))
            if sum(len(part) for part in waiting) >= _ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
            yield sink.take()
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
    yield sink.take()


def _xlsx(columns: Mapping[str, Kind], rows: Rows) -> Iterator[bytes]:
    """One sheet, written to disk as it grows. Cells have the type of their column, so no text
    becomes a formula, a link or a number.
    """
    with TemporaryDirectory(prefix="moodstream-export-") as folder:
        path = Path(folder) / "export.xlsx"
        book = xlsxwriter.Workbook(path, {"constant_memory": True, "tmpdir": folder})
        sheet = book.add_worksheet("moodstream")
        # The value is a date to Excel, and reads as ISO-8601 in UTC.
        time = book.add_format({"num_format": 'yyyy-mm-dd"T"hh:mm:ss.000"Z"'})
        day = book.add_format({"num_format": "yyyy-mm-dd"})
        bold = book.add_format({"bold": True})
        written: dict[Kind, Callable[[int, int, Any], Any]] = {
            Kind.TEXT: sheet.write_string,
            Kind.ID: sheet.write_string,
            Kind.TEXTS: lambda row, column, value: sheet.write_string(
                row, column, _SEPARATOR.join(value)
            ),
            Kind.TIME: lambda row, column, value: sheet.write_datetime(
                row, column, value.astimezone(UTC).replace(tzinfo=None), time
            ),
            Kind.DATE: lambda row, column, value: sheet.write_datetime(row, column, value, day),
            Kind.WHOLE: sheet.write_number,
            Kind.NUMBER: sheet.write_number,
        }
        put = [written[kind] for kind in columns.values()]
        try:
            sheet.freeze_panes(1, 0)
            for column, (name, kind) in enumerate(columns.items()):
                sheet.set_column(column, column, 26 if kind == Kind.TIME else 14)
                sheet.write_string(0, column, name, bold)
            number = 0
            for batch in rows:
                for row in batch:
                    number += 1
                    for column, value in enumerate(row):
                        if value is not None:
                            put[column](number, column, value)
                # Nothing to send yet, but a client that has left is noticed here.
                yield b""
            book.close()
        except FileSizeError as exc:
            raise BadRequestError("format: this is too large for XLSX; choose parquet") from exc
        finally:
            # Else an export that was broken off keeps its disk until the book is collected.
            sheet._opt_close()
        with path.open("rb") as file:
            while piece := file.read(_FILE_CHUNK_BYTES):
                yield piece


_MEDIA: Final = {
    Format.CSV: "text/csv; charset=utf-8; header=present",
    Format.JSONL: "application/x-ndjson",
    Format.PARQUET: "application/vnd.apache.parquet",
    Format.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


class _Download(StreamingResponse):
    """A response that lets go of the database as soon as its client leaves or stops reading."""

    def __init__(
        self, pieces: Iterator[bytes], done: Callable[[], None], headers: Mapping[str, str]
    ) -> None:
        super().__init__(pieces, headers=headers)
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            with anyio.fail_after(_STALLED_SECONDS):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(self._done)


_ALERTS: Final = """
SELECT id, rule, topic, summary, opened_at, closed_at FROM alerts
WHERE (%(topic)s::text IS NULL OR topic = %(topic)s)
ORDER BY opened_at DESC LIMIT %(most)s
"""
_MOST_ALERTS: Final = 100
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def feed(alerts: Sequence[Mapping[str, Any]], address: str) -> bytes:
    """Alerts as RSS 2.0: an item for the beginning of each and one for its end, as feed readers
    show no item twice. `address` is the dashboard's.
    """
    items = [
        (at, f"{alert['summary']}{' (over)' if end else ''}", end, alert)
        for alert in alerts
        for end, at in ((False, alert["opened_at"]), (True, alert["closed_at"]))
        if at is not None
    ]
    rss = ElementTree.Element("rss", version="2.0")
    channel = ElementTree.SubElement(rss, "channel")

    def add(parent: ElementTree.Element, name: str, text: str, **attributes: str) -> None:
        ElementTree.SubElement(parent, name, attributes).text = _NOT_XML.sub("\ufffd", text)

    add(channel, "title", "moodstream alerts")
    add(channel, "link", address)
    add(channel, "description", "What the rules of this dashboard found.")
    add(channel, "ttl", "5")
    for at, title, end, alert in sorted(items, key=lambda item: item[0], reverse=True):
        item = ElementTree.SubElement(channel, "item")
        add(item, "title", title)
        add(item, "link", f"{address}?{urlencode({'topic': alert['topic']})}")
        add(item, "description", f"Rule {alert['rule']}, topic {alert['topic']}")
        add(item, "category", alert["rule"])
        add(item, "pubDate", format_datetime(at.astimezone(UTC), usegmt=True))
        add(item, "guid", f"alert-{alert['id']}{'-over' if end else ''}", isPermaLink="false")
    content: bytes = ElementTree.tostring(rss, encoding="utf-8", xml_declaration=True)
    return content


def router(postgres: PostgresSettings) -> APIRouter:
    """The addresses of all this, for those who may read."""
    api = APIRouter(dependencies=[Depends(viewer)], tags=["exports"])
    slots, xlsx_slots = BoundedSemaphore(_AT_ONCE), BoundedSemaphore(_XLSX_AT_ONCE)
    reader = Reader(postgres, "moodstream-feed")

    @api.get(
        "/api/export",
        response_class=Response,
        responses={200: {"content": {media.partition(";")[0]: {} for media in _MEDIA.values()}}},
    )
    def export(wanted: Annotated[Export, Query()]) -> Response:
        """A file with everything that the filters choose, however much that is."""
        free = xlsx_slots if wanted.format == Format.XLSX else slots
        if not free.acquire(blocking=False):
            raise TemporaryError("too many exports are under way; ask again in a moment")
        pieces = stream(postgres, wanted)

        def done() -> None:
            try:
                pieces.close()
            finally:
                free.release()

        try:
            first = next(pieces, b"")
        except BaseException:
            done()
            raise
        name = f"moodstream-{wanted.what}-{datetime.now(UTC):%Y-%m-%d}.{wanted.format}"
        return _Download(
            chain([first], pieces),
            done,
            {
                "Content-Type": _MEDIA[wanted.format],
                "Content-Disposition": f'attachment; filename="{name}"',
                "Cache-Control": "no-store",
            },
        )

    @api.get(
        "/feeds/alerts.rss",
        response_class=Response,
        responses={200: {"content": {"application/rss+xml": {}}}},
    )
    def alerts(request: Request, topic: Word | None = None) -> Response:
        """The newest 100 alerts, of one topic or of all, for feed readers."""
        found = reader.rows(_ALERTS, {"topic": topic, "most": _MOST_ALERTS})
        return Response(
            feed(found, str(request.base_url)), media_type="application/rss+xml; charset=utf-8"
        )

    return api
