"""Daily averages in Airtable, over its protocol and within its limits."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyairtable
import pytest
import requests

from services.core.errors import SettingsError, TemporaryError
from services.etl.airtable import AirtableSettings, push
from tests.airtable import BASE, FIELDS, TOKEN, Airtable, airtable
from tests.integration.conftest import PostgresHandle
from tests.integration.test_dashboard import execute


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def base(clock: Clock) -> Iterator[Airtable]:
    with airtable(clock) as served:
        yield served


def settings(served: Airtable, **changes: Any) -> AirtableSettings:
    return AirtableSettings.model_validate(
        {"token": TOKEN, "base": BASE, "url": served.url} | changes
    )


def fill(postgres: PostgresHandle, topics: int, days: int, posts: int = 4) -> None:
    """So many topics on each of the last days: a quarter of the posts negative and of score -0.5,
    the others without a score.
    """
    execute(
        postgres,
        "INSERT INTO rollup_minute SELECT 'topic ' || topic, "
        "date_trunc('day', now(), 'UTC') - day * interval '1 day', 0, %s, %s / 4, 0, 0, "
        "%s - %s / 4, -0.5 * (%s / 4), 0.25 * (%s / 4) "
        "FROM generate_series(1, %s) AS topic, generate_series(0, %s - 1) AS day "
        "ON CONFLICT (topic, minute, shard) DO UPDATE SET posts = excluded.posts, "
        "negative = excluded.negative, unscored = excluded.unscored, "
        "score_sum = excluded.score_sum, score_square_sum = excluded.score_square_sum",
        *[posts] * 6,
        topics,
        days,
    )


def held(base: Airtable) -> list[dict[str, Any]]:
    """What somebody who opens the base sees."""
    table = pyairtable.Api(TOKEN, endpoint_url=base.url).table(BASE, base.table)
    return [record["fields"] for record in table.all()]


def test_a_day_and_topic_is_a_record(
    postgres: PostgresHandle, base: Airtable, clock: Clock
) -> None:
    fill(postgres, 1, 1)

    assert push(postgres.settings, settings(base), clock.wait) == {
        "records": 1,
        "created": 1,
        "updated": 0,
    }
    assert held(base) == [
        {
            "topic": "topic 1",
            "day": f"{datetime.now(UTC):%Y-%m-%d}",
            "posts": 4,
            "negative": 1,
            "neutral": 0,
            "positive": 0,
            "unscored": 3,
            "average_score": -0.5,
            "standard_error": 0.0,
        }
    ]


def test_a_second_run_updates_what_the_first_one_wrote(
    postgres: PostgresHandle, base: Airtable, clock: Clock
) -> None:
    fill(postgres, 12, 2)
    push(postgres.settings, settings(base), clock.wait)
    clock.wait(1)
    fill(postgres, 12, 2, posts=8)

    again = push(postgres.settings, settings(base), clock.wait)

    assert again == {"records": 24, "created": 0, "updated": 24}
    assert [record["posts"] for record in held(base)] == [8] * 24


def test_only_the_last_days_are_written(
    postgres: PostgresHandle, base: Airtable, clock: Clock
) -> None:
    fill(postgres, 1, 10)

    push(postgres.settings, settings(base, days=2), clock.wait)

    today = datetime.now(UTC).date()
    assert [record["day"] for record in held(base)] == [str(today - timedelta(1)), str(today)]


def test_many_records_never_exceed_the_limits(
    postgres: PostgresHandle, base: Airtable, clock: Clock
) -> None:
    fill(postgres, 45, 3)

    assert push(postgres.settings, settings(base), clock.wait)["created"] == 135

    assert base.statuses == [200] * 14


def test_the_server_of_these_tests_has_the_limits(base: Airtable, clock: Clock) -> None:
    table = pyairtable.Api(TOKEN, retry_strategy=None, endpoint_url=base.url).table(
        BASE, base.table
    )
    for _ in range(5):
        table.all()

    with pytest.raises(requests.HTTPError, match="429"):
        table.all()
    clock.wait(29)
    with pytest.raises(requests.HTTPError, match="429"):
        table.all()
    clock.wait(2)
    assert table.all() == []
    eleven = [{"fields": {"topic": "a", "day": "2026-01-01"}}] * 11
    with pytest.raises(requests.HTTPError, match="422"):
        table.api.request(
            "patch",
            table.urls.records,
            json={"records": eleven, "performUpsert": {"fieldsToMergeOn": ["topic"]}},
        )


def test_a_base_that_others_use_up_is_waited_for(
    postgres: PostgresHandle, base: Airtable, clock: Clock
) -> None:
    fill(postgres, 11, 1)
    base.use_up()

    assert push(postgres.settings, settings(base), clock.wait)["created"] == 11

    assert base.statuses == [429, 200, 200]
    assert clock.waits[0] == 30


def test_an_outage_is_waited_out(postgres: PostgresHandle, base: Airtable, clock: Clock) -> None:
    fill(postgres, 2, 1)
    base.outages = [503, 500]

    assert push(postgres.settings, settings(base), clock.wait)["created"] == 2

    base.outages = [503] * 5
    with pytest.raises(TemporaryError, match="gave up after 5 tries"):
        push(postgres.settings, settings(base), clock.wait)


def test_nobody_there_is_an_outage(postgres: PostgresHandle, base: Airtable, clock: Clock) -> None:
    fill(postgres, 1, 1)

    with pytest.raises(TemporaryError, match="gave up after 5 tries"):
        push(postgres.settings, settings(base, url="http://127.0.0.1:1"), clock.wait)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token": "pat-of-somebody-else"}, "MOODSTREAM_AIRTABLE_TOKEN: Airtable does not know"),
        ({"base": "app9999999999999"}, "MOODSTREAM_AIRTABLE_BASE, MOODSTREAM_AIRTABLE_TABLE"),
    ],
)
def test_a_wrong_setting_is_named(
    postgres: PostgresHandle, base: Airtable, clock: Clock, changes: dict[str, str], message: str
) -> None:
    fill(postgres, 1, 1)

    with pytest.raises(SettingsError, match=message):
        push(postgres.settings, settings(base, **changes), clock.wait)
    assert clock.waits == []


def test_a_table_without_the_fields_says_which_it_needs(
    postgres: PostgresHandle, clock: Clock
) -> None:
    fill(postgres, 1, 1)
    fields = {name: kind for name, kind in FIELDS.items() if name != "unscored"}

    with (
        airtable(clock, fields) as base,
        pytest.raises(SettingsError, match=r'the table needs the fields topic.*"unscored"'),
    ):
        push(postgres.settings, settings(base), clock.wait)
