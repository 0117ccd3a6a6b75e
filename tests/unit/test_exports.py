"""What an export looks like, from rows that a database could have given."""

import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import openpyxl
import orjson
import pytest
from pyarrow import parquet

from services.core.rules import Measurement, Rule
from services.dashboard.exports import Export, Format, Kind, What, _plan, _written
from services.dashboard.history import BadRequestError
from services.notifier.deliver import News, _flat, coalesce
from services.notifier.watch import _row

PAGE = Path(__file__).parents[2] / "docs" / "exports.md"

COLUMNS = {
    "id": Kind.ID,
    "text": Kind.TEXT,
    "topics": Kind.TEXTS,
    "at": Kind.TIME,
    "day": Kind.DATE,
    "posts": Kind.WHOLE,
    "score": Kind.NUMBER,
}
AT = datetime(2026, 5, 4, 1, 2, 3, 456789, tzinfo=timezone(timedelta(hours=2)))
LONG_ID = "1234567890123456789"


def row(text: str | None, ident: str = "7", score: float | None = -0.5) -> tuple[Any, ...]:
    return (ident, text, ["trains", "a, b"], AT, date(2026, 5, 4), 3, score)


def written(form: Format, *rows: tuple[Any, ...], excel: bool = False) -> bytes:
    batches: Iterator[list[tuple[Any, ...]]] = iter([[found] for found in rows])
    wanted = Export(what=What.POSTS, format=form, excel=excel)
    return b"".join(_written(wanted, COLUMNS, batches))


def cells(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def test_csv_has_a_header_crlf_and_times_in_utc() -> None:
    content = written(Format.CSV, row("fine"))

    assert content == (
        b"id,text,topics,at,day,posts,score\r\n"
        b'7,fine,"trains; a, b",2026-05-03T23:02:03.456789Z,2026-05-04,3,-0.5\r\n'
    )


@pytest.mark.parametrize("text", ['say "hi", twice', "two\r\nlines", "émoji 🎉", "", " spaced "])
def test_any_text_comes_back_from_csv(text: str) -> None:
    assert cells(written(Format.CSV, row(text)))[1][1] == text


@pytest.mark.parametrize(
    "first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"]
)
def test_a_text_that_a_spreadsheet_would_run_is_quoted(first: str) -> None:
    text = f'{first}HYPERLINK("http://example.org")'

    assert cells(written(Format.CSV, row(text)))[1][1] == f"'{text}"


def test_a_negative_number_stays_a_number() -> None:
    assert cells(written(Format.CSV, row("fine", score=-0.25)))[1][6] == "-0.25"


def test_what_is_missing_is_an_empty_cell() -> None:
    assert cells(written(Format.CSV, row(None, score=None)))[1][1::5] == ["", ""]


def test_csv_for_excel_has_a_byte_order_mark_and_ids_that_are_not_rounded() -> None:
    content = written(Format.CSV, row("fine", ident=LONG_ID), excel=True)

    assert content.startswith(b"\xef\xbb\xbfid,")
    assert cells(content)[1][0] == f'="{LONG_ID}"'
    assert cells(written(Format.CSV, row("fine", ident=LONG_ID)))[1][0] == LONG_ID


def test_no_id_but_digits_becomes_a_formula() -> None:
    for ident in ('1"&cmd()&"1234567890123', "²" * 20, "=cmd()"):
        content = written(Format.CSV, row("fine", ident=ident), excel=True)

        assert not cells(content)[1][0].startswith("=")


def test_jsonl_keeps_types_and_the_exact_text() -> None:
    (line,) = written(Format.JSONL, row("=1+1", ident=LONG_ID)).splitlines()

    assert orjson.loads(line) == {
        "id": LONG_ID,
        "text": "=1+1",
        "topics": ["trains", "a, b"],
        "at": "2026-05-04T01:02:03.456789+02:00",
        "day": "2026-05-04",
        "posts": 3,
        "score": -0.5,
    }


def test_parquet_keeps_types_and_the_exact_text() -> None:
    content = written(Format.PARQUET, row("=1+1", ident=LONG_ID), row(None, score=None))

    found = parquet.read_table(io.BytesIO(content)).to_pylist()
    assert found[0] == {
        "id": LONG_ID,
        "text": "=1+1",
        "topics": ["trains", "a, b"],
        "at": AT.astimezone(UTC),
        "day": date(2026, 5, 4),
        "posts": 3,
        "score": -0.5,
    }
    assert (found[1]["text"], found[1]["score"]) == (None, None)


def test_a_parquet_file_of_many_rows_has_row_groups() -> None:
    many = [row("fine")] * 15_000
    content = b"".join(
        _written(Export(what=What.POSTS, format=Format.PARQUET), COLUMNS, iter([many, many, many]))
    )

    about = parquet.ParquetFile(io.BytesIO(content)).metadata
    assert (about.num_rows, about.num_row_groups) == (45_000, 2)


def test_nothing_in_xlsx_is_a_formula_a_link_or_a_rounded_id() -> None:
    content = written(
        Format.XLSX, row("=1+1", ident=LONG_ID), row("http://example.org"), row("\x01 bell")
    )

    sheet = openpyxl.load_workbook(io.BytesIO(content)).active
    assert sheet is not None
    header, first, second, third = sheet.iter_rows()
    assert [cell.value for cell in header] == list(COLUMNS)
    assert [(cell.value, cell.data_type) for cell in first[:2]] == [(LONG_ID, "s"), ("=1+1", "s")]
    assert first[3].value == datetime(2026, 5, 3, 23, 2, 3, 457000)
    assert first[3].number_format == 'yyyy-mm-dd"T"hh:mm:ss.000"Z"'
    assert [cell.value for cell in first[5:]] == [3, -0.5]
    assert (second[1].value, second[1].hyperlink) == ("http://example.org", None)
    assert third[1].value == "_x0001_ bell"  # how XLSX spells it; openpyxl does not undo it


@pytest.mark.parametrize("form", list(Format))
def test_an_export_of_nothing_is_a_whole_file(form: Format) -> None:
    content = written(form)

    if form == Format.PARQUET:
        assert parquet.read_table(io.BytesIO(content)).num_rows == 0
    elif form == Format.XLSX:
        sheet = openpyxl.load_workbook(io.BytesIO(content)).active
        assert sheet is not None
        assert sheet.max_row == 1
    else:
        assert content == (b",".join(map(str.encode, COLUMNS)) + b"\r\n" if form == "csv" else b"")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Export(what=What.DAYS, label="positive"), "label: days cannot be chosen by it"),
        (Export(what=What.PROMOTIONS, topic="trains"), "topic: promotions cannot be chosen by it"),
        (Export(what=What.DAYS, zone="Mars/Base"), "there is no time zone 'Mars/Base'"),
        (Export(what=What.DAYS, zone="../etc/passwd"), "there is no time zone"),
    ],
)
def test_a_filter_that_would_be_ignored_is_refused(wanted: Export, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        _plan(wanted)


def test_days_of_a_zone_with_half_hours_are_made_from_minutes() -> None:
    assert "rollup_minute" in _plan(Export(what=What.DAYS, zone="Asia/Kolkata"))[1]
    assert "rollup_hour" in _plan(Export(what=What.DAYS, zone="America/New_York"))[1]


def test_the_sample_of_a_message_in_the_docs_is_one() -> None:
    at = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
    rule = Rule(name="tea-wave", kind="negative_share", topic="tea", threshold=0.4)
    row = _row(rule, Measurement(at, 143, 0.62, None), "open")
    news = News("alert.opened", at, _flat("alert.opened", orjson.loads(row["payload"])))

    documented = re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)

    assert documented is not None
    assert orjson.loads(documented[1]) == coalesce([news], "https://moodstream.example.org")
