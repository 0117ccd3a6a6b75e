"""An extract for Tableau, read back by Tableau's own library."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.core.errors import TemporaryError
from services.etl.hyper import HyperSettings, extract
from tests.integration.conftest import PostgresHandle
from tests.integration.test_dashboard import HOSTILE, store
from tests.missing import missing


@pytest.fixture(autouse=True)
def _library() -> None:
    try:
        import tableauhyperapi  # noqa: F401
    except ImportError:
        missing("tableauhyperapi is not installed: pip install -r requirements/hyper.txt")


def read(path: Path, *queries: str) -> list[list[list[Any]]]:
    from tableauhyperapi import Connection, HyperProcess, Telemetry

    with (
        HyperProcess(
            Telemetry.DO_NOT_SEND_USAGE_DATA_TO_TABLEAU, parameters={"log_config": ""}
        ) as hyper,
        Connection(hyper.endpoint, path) as connection,
    ):
        return [connection.execute_list_query(query) for query in queries]


def test_an_extract_holds_days_hours_and_posts(postgres: PostgresHandle, tmp_path: Path) -> None:
    store(postgres, ["one", HOSTILE, "émoji 🎉"])
    path = tmp_path / "moodstream.hyper"

    written = extract(postgres.settings, HyperSettings(file=path))

    assert written["rows"] == {"sentiment_by_day": 2, "sentiment_by_hour": 2, "posts": 3}
    assert written["bytes"] == path.stat().st_size
    days, hours, posts, count = read(
        path,
        'SELECT * FROM "Extract"."sentiment_by_day"',
        'SELECT "topic", "positive" FROM "Extract"."sentiment_by_hour"',
        'SELECT "id", "text", "topics", "label", "score" FROM "Extract"."posts" ORDER BY "id"',
        'SELECT count(*) FROM "Extract"."posts" WHERE "created_at" > now() - INTERVAL \'1 hour\'',
    )
    assert [row[0] for row in days] == ["*", "trains"]
    assert str(days[0][1]) == f"{datetime.now(UTC):%Y-%m-%d}"
    assert days[0][2:7] == [3, 0, 0, 3, 0]
    assert days[0][7] == pytest.approx(0.6)
    assert hours == [["*", 3], ["trains", 3]]
    assert [row[:4] for row in posts] == [
        ["0", "one", "trains", "positive"],
        ["1", HOSTILE, "trains", "positive"],
        ["2", "émoji 🎉", "trains", "positive"],
    ]
    assert count == [[3]]
    assert list(tmp_path.iterdir()) == [path]


def test_an_extract_replaces_the_last_one(postgres: PostgresHandle, tmp_path: Path) -> None:
    path = tmp_path / "moodstream.hyper"
    store(postgres, ["one", "two"])
    extract(postgres.settings, HyperSettings(file=path))

    written = extract(postgres.settings, HyperSettings(file=path, days=0))

    assert written["rows"]["posts"] == 0
    assert read(path, 'SELECT count(*) FROM "Extract"."posts"') == [[[0]]]


def test_a_failed_extract_leaves_the_last_one(postgres: PostgresHandle, tmp_path: Path) -> None:
    path = tmp_path / "moodstream.hyper"
    store(postgres, ["one"])
    extract(postgres.settings, HyperSettings(file=path))
    before = path.read_bytes()

    nowhere = postgres.settings.model_copy(update={"port": 1})
    with pytest.raises(TemporaryError):
        extract(nowhere, HyperSettings(file=path))

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
