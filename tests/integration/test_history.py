"""What the dashboard says of the past, compared with SQL on the same warehouse."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from services.core.errors import TemporaryError
from services.dashboard import history
from services.dashboard.history import BadRequestError, Filters, Reader, Step
from tests.integration.conftest import PostgresHandle
from tests.integration.test_dashboard import HOSTILE, execute, serving
from tests.integration.warehouse import add_posts

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def put(
    postgres: PostgresHandle,
    texts: list[str],
    at: datetime,
    label: str = "positive",
    topic: str = "trains",
    language: str = "en",
) -> None:
    """Posts and their rollups, as a consumer leaves them; a second apart, the last one at `at`."""
    shares = {"negative": (0.7, 0.2, 0.1), "neutral": (0.2, 0.6, 0.2), "positive": (0.1, 0.2, 0.7)}
    for i, text in enumerate(texts):
        execute(
            postgres,
            "WITH stored AS (INSERT INTO posts (source, id, text, language, created_at, topics, "
            "label, p_negative, p_neutral, p_positive, model_name, model_version, kafka_partition, "
            "kafka_offset) VALUES ('replay', gen_random_uuid()::text, %s, %s, %s, ARRAY[%s], %s, "
            "%s, %s, %s, 'sentiment', '1', 0, 0) RETURNING *) "
            "INSERT INTO rollup_minute SELECT topic, date_trunc('minute', created_at), 0, 1, "
            "(label = 'negative')::int, (label = 'neutral')::int, (label = 'positive')::int, 0, "
            "score::numeric, score::numeric * score::numeric "
            "FROM stored, unnest(topics || '{*}'::text[]) AS topic "
            "ON CONFLICT (topic, minute, shard) DO UPDATE SET "
            "posts = rollup_minute.posts + 1, "
            "negative = rollup_minute.negative + excluded.negative, "
            "neutral = rollup_minute.neutral + excluded.neutral, "
            "positive = rollup_minute.positive + excluded.positive, "
            "score_sum = rollup_minute.score_sum + excluded.score_sum, "
            "score_square_sum = rollup_minute.score_square_sum + excluded.score_square_sum",
            text,
            language,
            at - timedelta(seconds=len(texts) - 1 - i),
            topic,
            label,
            *shares[label],
        )


@pytest.fixture
def reader(postgres: PostgresHandle) -> Reader:
    return Reader(postgres.settings)


@pytest.fixture
def url(postgres: PostgresHandle) -> Iterator[str]:
    with serving(postgres) as address:
        yield address


def get(address: str, **parameters: str) -> tuple[int, Any]:
    """Status and JSON."""
    query = f"?{urlencode(parameters)}" if parameters else ""
    try:
        with urllib.request.urlopen(address + query) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def test_a_day_is_a_day_of_the_zone_that_is_asked_for(
    postgres: PostgresHandle, reader: Reader
) -> None:
    # 23:30 UTC is the next day in Paris and in Kolkata, the same one in New York.
    late = datetime(2026, 3, 10, 23, 30, tzinfo=UTC)
    put(postgres, ["a", "b"], late)
    put(postgres, ["c"], late + DAY / 2, "negative")
    since, until = late - 3 * DAY, late + 3 * DAY

    def days(zone: str) -> list[tuple[str, int]]:
        points = history.series(reader, "*", since, until, Step.DAY, zone)
        return [(point.start.isoformat(), point.posts) for point in points]

    assert days("UTC") == [("2026-03-10T00:00:00+00:00", 2), ("2026-03-11T00:00:00+00:00", 1)]
    assert days("Europe/Paris") == [("2026-03-10T23:00:00+00:00", 3)]
    assert days("Asia/Kolkata") == [("2026-03-10T18:30:00+00:00", 3)]
    assert days("America/New_York") == [
        ("2026-03-10T04:00:00+00:00", 2),
        ("2026-03-11T04:00:00+00:00", 1),
    ]


def test_counts_are_those_of_the_posts_wherever_a_zones_days_begin(
    postgres: PostgresHandle, reader: Reader
) -> None:
    # Over the end of summer time in both halves of the world.
    for i, start in enumerate(
        (datetime(2026, 4, 3, tzinfo=UTC), datetime(2026, 10, 30, tzinfo=UTC))
    ):
        add_posts(postgres.settings, start, 2_000, 2_000 * i, "6 days")
    since, until = datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 11, 20, tzinfo=UTC)
    recount = (
        "SELECT date_trunc(%(step)s, created_at, %(zone)s) AS start, count(*) AS posts FROM posts "
        "GROUP BY 1 ORDER BY 1"
    )

    for zone in ("UTC", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"):
        for step in (Step.HOUR, Step.DAY):
            points = history.series(reader, "*", since, until, step, zone)
            counted = reader.rows(recount, {"step": step.value, "zone": zone})
            found = [{"start": point.start, "posts": point.posts} for point in points]
            assert found == counted, zone


def test_counts_average_and_its_uncertainty_are_those_of_the_posts(
    postgres: PostgresHandle, reader: Reader
) -> None:
    at = datetime(2026, 3, 10, 12, 0, 30, tzinfo=UTC)
    put(postgres, ["a", "b", "c"], at)
    put(postgres, ["d"], at + HOUR, "negative")

    (day,) = history.series(reader, "trains", at - DAY, at + DAY, Step.DAY, "UTC")
    hours = history.series(reader, "trains", at - DAY, at + DAY, Step.HOUR, "UTC")

    assert (day.posts, day.negative, day.positive) == (4, 1, 3)
    assert day.average_score == pytest.approx((3 * 0.6 - 0.6) / 4)
    # Population standard deviation of 0.6, 0.6, 0.6, -0.6 over the root of 4.
    assert day.standard_error == pytest.approx(0.5196 / 2, abs=1e-3)
    assert [(hour.start.hour, hour.posts) for hour in hours] == [(12, 3), (13, 1)]
    assert hours[1].standard_error == 0


def test_the_last_hour_stands_beside_the_same_hour_yesterday(
    postgres: PostgresHandle, reader: Reader
) -> None:
    now = datetime.now(UTC)
    put(postgres, ["a", "b"], now)
    put(postgres, ["c"], now - DAY, "negative")
    put(postgres, ["too old"], now - 2 * HOUR, "neutral")

    found = history.now(reader, "trains")

    assert (found.now.posts, found.now.positive) == (2, 2)
    assert (found.yesterday.posts, found.yesterday.negative) == (1, 1)
    assert found.yesterday.average_score == pytest.approx(-0.6)
    assert history.now(reader, "nobody").now.average_score is None


def test_topics_stand_side_by_side_with_the_largest_first(
    postgres: PostgresHandle, reader: Reader
) -> None:
    now = datetime.now(UTC)
    put(postgres, ["a"], now, topic="buses")
    put(postgres, ["b", "c"], now, "negative", topic="trains")

    found = history.topics(reader, None, None)

    assert [(point.topic, point.posts) for point in found] == [("trains", 2), ("buses", 1)]
    assert found[0].average_score == pytest.approx(-0.6)


def test_posts_are_found_by_every_filter(postgres: PostgresHandle, reader: Reader) -> None:
    now = datetime.now(UTC)
    put(postgres, ["The 7:40 was LATE", "on time"], now, "negative")
    put(postgres, ["le train est en retard"], now - HOUR, "negative", language="fr")
    put(postgres, ["nice bus"], now - DAY, topic="buses")

    def found(**filters: Any) -> set[str]:
        page = history.posts(reader, Filters(**filters), "newest", None, 50)
        assert page.next is None
        return {post.text for post in page.posts}

    assert found(text="late") == {"The 7:40 was LATE"}
    assert found(text="100%") == set()
    assert found(topic="buses") == {"nice bus"}
    assert found(label="positive") == {"nice bus"}
    assert found(language="fr") == {"le train est en retard"}
    assert found(since=now - 2 * HOUR, until=now - HOUR / 2) == {"le train est en retard"}
    assert len(found()) == 4


def test_a_search_goes_on_where_it_stopped_and_misses_nothing(
    postgres: PostgresHandle, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    texts = [f"post {n} {'match' if n % 7 == 0 else ''}" for n in range(40)]
    put(postgres, texts[:20], now)
    put(postgres, texts[20:], now)  # The same seconds: the cursor must tell them apart.
    monkeypatch.setattr(history, "_EXAMINED", 9)

    def pages(limit: int, **filters: Any) -> list[str]:
        seen: list[str] = []
        cursor: str | None = None
        for _ in range(50):
            page = history.posts(reader, Filters(**filters), "newest", cursor, limit)
            seen += [post.text for post in page.posts]
            cursor = page.next
            if cursor is None:
                return seen
        raise AssertionError("a search without an end")

    assert sorted(pages(3)) == sorted(texts)
    assert sorted(pages(3, text="match")) == sorted(t for t in texts if "match" in t)
    assert pages(50, text="nowhere") == []


def test_the_most_telling_posts_are_those_the_model_is_surest_of(
    postgres: PostgresHandle, reader: Reader
) -> None:
    now = datetime.now(UTC)
    put(postgres, ["meh"], now, "neutral")
    put(postgres, ["bad"], now - HOUR, "negative")
    put(postgres, [HOSTILE], now - 2 * HOUR)

    page = history.posts(reader, Filters(), "telling", None, 50)

    assert [post.text for post in page.posts] == ["bad", HOSTILE]
    assert page.next is None
    assert history.posts(reader, Filters(topic="nobody"), "telling", None, 5).posts == []


def test_the_pipeline_says_what_became_of_every_record(
    postgres: PostgresHandle, reader: Reader
) -> None:
    put(postgres, ["a"], datetime.now(UTC) - timedelta(seconds=30))
    execute(
        postgres,
        "INSERT INTO kafka_offsets VALUES ('g', 'posts', 0, 0, 6, 3, 1, 2, 0, now(), 11), "
        "('g', 'posts', 1, 0, 4, 4, 0, 0, 0, now(), 3)",
    )
    execute(
        postgres,
        "INSERT INTO dead_letters VALUES ('posts', 0, 4, 'not-json', 'x'), "
        "('posts', 0, 5, 'not-json', 'x')",
    )

    found = history.pipeline(reader)

    assert (found.stored, found.duplicates, found.dead_lettered, found.lag) == (7, 1, 2, 5)
    assert [(dead.reason, dead.records) for dead in found.dead_letters] == [("not-json", 2)]
    assert found.latency_p50_seconds == pytest.approx(30, abs=20)


def test_an_empty_warehouse_has_answers_too(reader: Reader) -> None:
    assert history.series(reader, "*", None, None, Step.HOUR, "UTC") == []
    assert history.topics(reader, None, None) == []
    assert history.posts(reader, Filters(), "newest", None, 5).posts == []
    assert history.posts(reader, Filters(), "telling", None, 5).posts == []
    assert history.pipeline(reader).latency_p50_seconds is None


@pytest.mark.parametrize(
    ("path", "parameters", "named"),
    [
        ("series", {"zone": "Mars/Olympus"}, "zone"),
        ("series", {"zone": "../../etc/passwd"}, "zone"),
        ("series", {"step": "year"}, "step"),
        ("series", {"since": "yesterday"}, "since"),
        ("series", {"since": "2026-01-01T00:00:00"}, "since"),
        ("series", {"since": "0001-01-01T00:00:00Z", "zone": "America/New_York"}, "since"),
        ("series", {"until": "9999-12-31T23:59:59Z", "zone": "Asia/Tokyo"}, "until"),
        ("topics", {"since": "0001-01-01T00:00:00Z"}, "since"),
        ("series", {"topic": "tea\0"}, "topic"),
        ("now", {"topic": "\0"}, "topic"),
        ("posts", {"topic": "\0"}, "topic"),
        ("posts", {"language": "\0"}, "language"),
        ("posts", {"text": "a\0b"}, "text"),
        ("posts", {"limit": "0"}, "limit"),
        ("posts", {"label": "angry"}, "label"),
        ("posts", {"cursor": "bm90IG1pbmU"}, "cursor"),
        ("posts", {"cursor": "\u2603"}, "cursor"),
    ],
)
def test_parameters_that_make_no_sense_are_named(
    url: str, path: str, parameters: dict[str, str], named: str
) -> None:
    code, answer = get(f"{url}/api/{path}", **parameters)

    assert code == 422
    assert answer["problem"].startswith(f"{named}: ")


def test_sql_in_a_parameter_is_a_word_like_any_other(url: str, postgres: PostgresHandle) -> None:
    put(postgres, ["fine"], datetime.now(UTC))
    injected = "'; DROP TABLE posts; --"

    answers = [
        get(f"{url}/api/posts", **{name: injected})[0] for name in ("topic", "language", "text")
    ]

    assert answers == [200, 200, 200]
    assert get(f"{url}/api/posts")[1]["posts"][0]["text"] == "fine"


def test_while_the_database_is_away_the_api_says_so(
    postgres: PostgresHandle, reader: Reader, url: str
) -> None:
    put(postgres, ["a"], datetime.now(UTC))
    history.pipeline(reader)
    postgres.stop()
    try:
        with pytest.raises(TemporaryError):
            history.pipeline(reader)
        code, answer = get(f"{url}/api/series")
    finally:
        postgres.start()

    assert (code, "PostgreSQL" in answer["problem"]) == (503, True)
    assert history.pipeline(reader).newest_at is not None


def test_a_zone_that_there_is_not_is_no_query(reader: Reader) -> None:
    with pytest.raises(BadRequestError, match="Europe/Paris"):
        history.series(reader, "*", None, None, Step.DAY, "Nowhere")


def test_the_api_describes_itself(url: str) -> None:
    code, described = get(f"{url}/api/openapi.json")

    assert code == 200
    assert {"/api/now", "/api/series", "/api/topics", "/api/posts", "/api/pipeline"} <= set(
        described["paths"]
    )
