"""Downloads from a real dashboard over a real warehouse, by clients that behave and that do not."""

import csv
import http.client
import io
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

import anyio
import openpyxl
import pytest
from pyarrow import parquet
from starlette.types import Message
from typer.testing import CliRunner, Result

from services.cli import app
from services.core.postgres import connect, transaction
from services.dashboard import exports
from services.dashboard.exports import Export, Format, What
from services.dashboard.history import BadRequestError
from tests.integration.conftest import PostgresHandle
from tests.integration.test_dashboard import TOKEN, execute, promote, serving, store
from tests.integration.test_maintenance import postgres_variables
from tests.waiting import wait_until

AT = datetime(2026, 5, 4, 23, 30, tzinfo=UTC)


def fill(postgres: PostgresHandle, posts: int, text: str = "post") -> None:
    """Posts a second apart from AT on, two of three with a prediction; their rollups."""
    execute(
        postgres,
        "INSERT INTO posts (source, id, text, language, created_at, topics, label, p_negative, "
        "p_neutral, p_positive, model_name, model_version, kafka_partition, kafka_offset) "
        "SELECT 'replay', (1000000000000000000 + n)::text, %s || ' ' || n, "
        "(ARRAY['en', 'fr'])[n %% 2 + 1], %s + n * interval '1 second', "
        "ARRAY[(ARRAY['trains', 'tea'])[n %% 2 + 1]], "
        "(ARRAY['negative', 'positive', NULL])[n %% 3 + 1]::sentiment, "
        "CASE n %% 3 WHEN 2 THEN NULL ELSE 0.7 - n %% 3 * 0.6 END, "
        "CASE n %% 3 WHEN 2 THEN NULL ELSE 0.2 END, "
        "CASE n %% 3 WHEN 2 THEN NULL ELSE 0.1 + n %% 3 * 0.6 END, "
        "CASE n %% 3 WHEN 2 THEN NULL ELSE 'sentiment' END, "
        "CASE n %% 3 WHEN 2 THEN NULL ELSE '1' END, 0, n "
        "FROM generate_series(0, %s - 1) AS n",
        text,
        AT,
        posts,
    )
    execute(
        postgres,
        "INSERT INTO rollup_minute SELECT topic, date_trunc('minute', created_at), 0, count(*), "
        "count(*) FILTER (WHERE label = 'negative'), count(*) FILTER (WHERE label = 'neutral'), "
        "count(*) FILTER (WHERE label = 'positive'), count(*) FILTER (WHERE label IS NULL), "
        "coalesce(sum(score::numeric), 0), coalesce(sum(score::numeric * score::numeric), 0) "
        "FROM posts, unnest(topics || '{*}'::text[]) AS topic GROUP BY 1, 2",
    )


@pytest.fixture
def url(postgres: PostgresHandle) -> Iterator[str]:
    with serving(postgres) as address:
        yield address


def fetch(url: str, **parameters: str) -> bytes:
    with urllib.request.urlopen(f"{url}/api/export?{urlencode(parameters)}") as answer:
        content: bytes = answer.read()
    return content


def refused(url: str, **parameters: str) -> tuple[int, str]:
    try:
        fetch(url, **parameters)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)["problem"]
    raise AssertionError("it was not refused")


def table(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def query(postgres: PostgresHandle, sql: str) -> list[tuple[Any, ...]]:
    connection = connect(postgres.settings, "test")
    with transaction(connection, 30) as cursor:
        cursor.execute(sql)
        found = cursor.fetchall()
    connection.close()
    return found


def exporting(postgres: PostgresHandle) -> bool:
    """Whether the database still works on an export of this test."""
    return bool(
        query(
            postgres,
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'moodstream-export'",
        )
    )


def test_every_format_has_every_post(postgres: PostgresHandle, url: str) -> None:
    fill(postgres, 2_500)

    rows = table(fetch(url, what="posts", format="csv"))
    lines = [json.loads(line) for line in fetch(url, what="posts", format="jsonl").splitlines()]
    columns = parquet.read_table(io.BytesIO(fetch(url, what="posts", format="parquet")))
    book = openpyxl.load_workbook(io.BytesIO(fetch(url, what="posts", format="xlsx")))

    ids = [str(10**18 + n) for n in range(2_500)]
    assert [row["id"] for row in rows] == ids
    assert [line["id"] for line in lines] == ids
    assert columns.column("id").to_pylist() == ids
    assert book.active is not None
    assert [row[1] for row in book.active.iter_rows(min_row=2, values_only=True)] == ids
    assert rows[0] | {"stored_at": ""} == {
        "source": "replay",
        "id": ids[0],
        "created_at": "2026-05-04T23:30:00.000000Z",
        "text": "post 0",
        "language": "en",
        "topics": "trains",
        "label": "negative",
        "p_negative": "0.7",
        "p_neutral": "0.2",
        "p_positive": "0.1",
        "score": "-0.59999996",
        "model_name": "sentiment",
        "model_version": "1",
        "stored_at": "",
    }
    assert lines[0]["created_at"] == "2026-05-04T23:30:00Z"
    assert (lines[2]["label"], lines[2]["score"]) == (None, None)
    assert columns.to_pylist()[0]["created_at"] == AT


def test_filters_choose_posts(postgres: PostgresHandle, url: str) -> None:
    fill(postgres, 60)

    def numbers(**parameters: str) -> list[int]:
        return [int(row["id"]) - 10**18 for row in table(fetch(url, what="posts", **parameters))]

    later = (AT + timedelta(seconds=50)).isoformat()
    assert numbers(topic="tea") == list(range(1, 60, 2))
    assert numbers(topic="*") == list(range(60))
    assert numbers(label="negative") == list(range(0, 60, 3))
    assert numbers(language="fr", text="POST 5") == [5, 51, 53, 55, 57, 59]
    assert numbers(since=later) == list(range(50, 60))
    assert numbers(until=later, label="positive", topic="trains") == [4, 10, 16, 22, 28, 34, 40, 46]


def test_days_are_those_of_the_view_and_of_the_zone(postgres: PostgresHandle, url: str) -> None:
    fill(postgres, 3_600)

    days = table(fetch(url, what="days"))
    expected = query(
        postgres,
        "SELECT topic, day::text, posts::text, negative::text, neutral::text, positive::text, "
        "unscored::text FROM sentiment_by_day ORDER BY day, topic",
    )
    assert [tuple(row.values())[:7] for row in days] == expected
    assert {row["topic"] for row in days} == {"*", "tea", "trains"}
    for row, (average, error) in zip(
        days,
        query(
            postgres,
            "SELECT average_score::float8, standard_error::float8 FROM sentiment_by_day "
            "ORDER BY day, topic",
        ),
        strict=True,
    ):
        assert float(row["average_score"]) == average
        assert float(row["standard_error"]) == error
    (paris,) = table(fetch(url, what="days", topic="*", zone="Europe/Paris"))
    assert (paris["day"], paris["posts"]) == ("2026-05-05", "3600")
    # Midnight in Kathmandu is at 18:15 UTC; in Kolkata at 18:30.
    (kathmandu,) = table(fetch(url, what="days", topic="*", zone="Asia/Kathmandu"))
    assert (kathmandu["day"], kathmandu["posts"]) == ("2026-05-05", "3600")
    assert [row["posts"] for row in table(fetch(url, what="hours", topic="*"))] == ["1800", "1800"]
    assert len(table(fetch(url, what="minutes", topic="tea"))) == 60


def test_predictions_corrections_and_promotions(postgres: PostgresHandle, url: str) -> None:
    store(postgres, ["one", "=cmd()"])
    promote(postgres, ("champion", "1", "serving"))
    execute(
        postgres,
        "INSERT INTO shadow_predictions (source, id, champion_version, champion_label, "
        "champion_score, model_name, model_version, label, p_negative, p_neutral, p_positive) "
        "VALUES ('replay', '1', '1', 'positive', 0.6, 'sentiment', '2', 'negative', 0.8, 0.1, 0.1)",
    )
    execute(
        postgres,
        "INSERT INTO corrections (source, post_id, label, predicted_label, model_version, "
        "corrected_by) VALUES ('replay', '1', 'neutral', 'positive', '1', '@ada')",
    )

    predictions = table(fetch(url, what="predictions"))
    assert [(row["role"], row["id"], row["label"]) for row in predictions] == [
        ("champion", "0", "positive"),
        ("challenger", "1", "negative"),
        ("champion", "1", "positive"),
    ]
    assert len(table(fetch(url, what="predictions", label="negative", topic="trains"))) == 1
    (correction,) = table(fetch(url, what="corrections", label="neutral"))
    assert (correction["text"], correction["corrected_by"]) == ("'=cmd()", "'@ada")
    (promotion,) = table(fetch(url, what="promotions"))
    assert (promotion["alias"], promotion["state"]) == ("champion", "serving")


def test_the_answer_says_what_it_is(postgres: PostgresHandle, url: str) -> None:
    fill(postgres, 1)

    with urllib.request.urlopen(f"{url}/api/export?what=posts&excel=1") as answer:
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
        assert answer.headers["Content-Disposition"] == (
            f'attachment; filename="moodstream-posts-{datetime.now(UTC):%Y-%m-%d}.csv"'
        )
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.read().startswith(b"\xef\xbb\xbf")


def test_what_makes_no_sense_is_refused_before_anything_is_sent(url: str) -> None:
    assert refused(url, what="days", language="en")[0] == 422
    assert refused(url, what="posts", format="doc")[0] == 422
    assert refused(url, what="secrets")[0] == 422
    assert refused(url, what="posts", since="yesterday")[0] == 422
    status, problem = refused(url, what="days", zone="Mars/Base")
    assert status == 422
    assert "Europe/Paris" in problem


def test_more_rows_than_a_sheet_holds_are_refused_before_anything_is_sent(
    postgres: PostgresHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(postgres, 12)
    monkeypatch.setattr(exports, "MOST_XLSX_ROWS", 12)
    wanted = Export(what=What.POSTS, format=Format.XLSX)

    with pytest.raises(BadRequestError, match="more than 11 rows, the most that an XLSX sheet"):
        next(exports.stream(postgres.settings, wanted))
    monkeypatch.setattr(exports, "MOST_XLSX_ROWS", 13)
    assert b"".join(exports.stream(postgres.settings, wanted)).startswith(b"PK")


def test_a_spreadsheet_reads_with_the_token_in_the_address(postgres: PostgresHandle) -> None:
    fill(postgres, 3)
    with serving(postgres, DASHBOARD_VIEWER_TOKEN=TOKEN) as url:
        address = f"{url.replace('127.0.0.1', 'localhost')}/api/export?what=days&topic=*"
        elsewhere = {"X-Forwarded-For": "203.0.113.7"}

        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(urllib.request.Request(address, headers=elsewhere))
        refusal.value.close()
        assert refusal.value.code == 401
        with urllib.request.urlopen(
            urllib.request.Request(f"{address}&token={TOKEN}", headers=elsewhere)
        ) as answer:
            assert table(answer.read())[0]["posts"] == "3"


def test_an_export_to_a_file(postgres: PostgresHandle, tmp_path: Path) -> None:
    fill(postgres, 5)
    path = tmp_path / "posts.csv"

    size = exports.write(postgres.settings, Export(what=What.POSTS), path)

    assert size == path.stat().st_size
    assert len(table(path.read_bytes())) == 5
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(BadRequestError):
        exports.write(postgres.settings, Export(what=What.DAYS, label="positive"), path)
    assert len(table(path.read_bytes())) == 5


def test_the_command_line_exports_by_the_files_ending(
    postgres: PostgresHandle, tmp_path: Path
) -> None:
    fill(postgres, 5)
    variables = postgres_variables(postgres.settings) | {
        "MOODSTREAM_LOCAL_HOME": str(tmp_path / "state"),
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }

    def export(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["export", *arguments], env=variables)

    path = tmp_path / "posts.jsonl"
    done = export(str(path), "--since", "2020-01-01T00:00:00Z", "--json")
    wrong = [
        export(str(tmp_path / "posts.doc")),
        export(str(path), "--since", "yesterday"),
        export(str(tmp_path / "days.csv"), "--what", "days", "--label", "positive"),
    ]

    assert json.loads(done.stdout) == {"file": str(path), "bytes": path.stat().st_size}
    assert len(path.read_text().splitlines()) == 5
    assert [answer.exit_code for answer in wrong] == [2, 2, 1]
    assert "label" in wrong[2].stderr
    assert list(tmp_path.iterdir()) == [path]


def begin(url: str, form: str) -> socket.socket:
    """A client that has asked for everything and read the first bytes only."""
    where = urlsplit(url)
    assert where.hostname is not None
    client = socket.create_connection((where.hostname, where.port or 80))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    request = f"GET /api/export?what=posts&format={form} HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n"
    client.sendall(request.encode())
    assert client.recv(9) == b"HTTP/1.1 "
    return client


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_a_client_that_leaves_frees_the_database(
    postgres: PostgresHandle, url: str, form: str
) -> None:
    fill(postgres, 40_000, "long " * 100)
    client = begin(url, form)
    assert exporting(postgres)

    client.close()

    wait_until(lambda: not exporting(postgres), 20, "the end of the export")


def test_a_client_that_reads_slowly_gets_everything(postgres: PostgresHandle, url: str) -> None:
    fill(postgres, 20_000, "long " * 100)
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.netloc)
    connection.request("GET", "/api/export?what=posts&format=jsonl")
    answer = connection.getresponse()
    first = answer.read(100)
    # Longer than the silence that core allows a transaction of anybody else.
    wait_until(lambda: asleep(postgres) > 6, 30, "six seconds without a byte read")

    lines = (first + answer.read()).splitlines()

    connection.close()
    assert len(lines) == 20_000


def asleep(postgres: PostgresHandle) -> float:
    """Seconds since the export's last question."""
    (found,) = query(
        postgres,
        "SELECT extract(epoch FROM now() - max(state_change))::float8 FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'moodstream-export' "
        "AND state = 'idle in transaction'",
    )
    return float(found[0] or 0)


def test_a_client_that_stops_reading_frees_the_database(
    postgres: PostgresHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(postgres, 5_000)
    monkeypatch.setattr(exports, "_STALLED_SECONDS", 5)
    pieces = exports.stream(postgres.settings, Export(what=What.POSTS))
    held_up = []

    async def send(message: Message) -> None:
        if message.get("body"):
            held_up.append(exporting(postgres))
            await anyio.sleep_forever()

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def download() -> None:
        with pytest.raises(TimeoutError):
            await exports._Download(pieces, pieces.close, {})({"type": "http"}, receive, send)

    anyio.run(download)

    assert held_up == [True]
    # Sooner than the server's own patience would free it.
    wait_until(lambda: not exporting(postgres), 3)


def test_a_database_that_dies_breaks_the_download_off(postgres: PostgresHandle, url: str) -> None:
    fill(postgres, 40_000, "long " * 100)
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.netloc)
    connection.request("GET", "/api/export?what=posts&format=csv")
    answer = connection.getresponse()
    answer.read(100)

    execute(
        postgres,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'moodstream-export'",
    )

    try:
        with pytest.raises(http.client.IncompleteRead):
            answer.read()
    finally:
        connection.close()


def test_so_many_exports_at_once_and_no_more(postgres: PostgresHandle, url: str) -> None:
    fill(postgres, 40_000, "long " * 100)
    clients = [begin(url, "csv") for _ in range(4)]

    status, problem = refused(url, what="posts")

    assert status == 503
    assert "ask again" in problem
    for client in clients:
        client.close()
    wait_until(lambda: not exporting(postgres), 20, "the end of the exports")
    assert len(table(fetch(url, what="posts", until=AT.isoformat()))) == 0


def test_alerts_are_a_feed(postgres: PostgresHandle, url: str) -> None:
    for topic, summary, closed in (
        ("tea", "<b>negative</b> & \x01 loud", None),
        ("a&b", "quiet", AT + timedelta(hours=1)),
    ):
        execute(
            postgres,
            "INSERT INTO alerts (rule, kind, topic, posts, summary, opened_at, closed_at) "
            "VALUES ('wave', 'level', %s, 7, %s, %s, %s)",
            topic,
            summary,
            AT,
            closed,
        )

    with urllib.request.urlopen(f"{url}/feeds/alerts.rss") as answer:
        assert answer.headers["Content-Type"] == "application/rss+xml; charset=utf-8"
        items = ElementTree.fromstring(answer.read()).findall("channel/item")  # noqa: S314 - ours

    over, *begun = items
    assert (over.findtext("title"), over.findtext("guid")) == ("quiet (over)", "alert-2-over")
    assert over.findtext("pubDate") == "Tue, 05 May 2026 00:30:00 GMT"
    assert over.findtext("link") == f"{url}/?topic=a%26b"
    assert {item.findtext("title") for item in begun} == {"<b>negative</b> & \ufffd loud", "quiet"}
    with urllib.request.urlopen(f"{url}/feeds/alerts.rss?topic=tea") as answer:
        assert answer.read().count(b"<item>") == 1


def test_one_xlsx_at_a_time(postgres: PostgresHandle, url: str) -> None:
    fill(postgres, 40_000, "long " * 100)
    client = begin(url, "xlsx")

    assert refused(url, what="posts", format="xlsx")[0] == 503
    assert len(table(fetch(url, what="posts", until=(AT + timedelta(minutes=1)).isoformat()))) == 60
    client.close()
