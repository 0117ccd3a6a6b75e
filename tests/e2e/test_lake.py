"""The jobs of the lake: what is stored comes in and is scored anew; what must go leaves both."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from tests.e2e.deployed import SOURCE, WAY_OUT, Batch, Platform, client_of

_COUNT = 400
_ARRIVAL_SECONDS = 60
_JOB_SECONDS = 600


@pytest.fixture(scope="module")
def batch(platform: Platform) -> Iterator[Batch]:
    """Posts of our own, stored. Nothing of these tests stays in the lake."""
    batch = platform.produce(_COUNT)
    platform.finish(batch.pod, 120)
    platform.wait_for_rows(batch, _COUNT, _ARRIVAL_SECONDS)
    yield batch
    _withdraw(platform, "")


def test_the_daily_job_writes_every_post_and_the_counts_agree(
    platform: Platform, batch: Batch
) -> None:
    platform.run_job("moodstream-lake", _JOB_SECONDS)

    differences = platform.sql(
        f"SELECT * FROM aggregate_differences WHERE topic = '{batch.prefix}'"  # noqa: S608
    )
    held = _held(platform, batch)
    assert held["files"] >= 1
    assert held["posts"] == _COUNT
    assert differences == []


def test_a_backfill_scores_every_post_of_the_past_once(platform: Platform, batch: Batch) -> None:
    hour = datetime.fromisoformat(platform.first_minute).replace(minute=0)
    until = hour + timedelta(hours=2)
    values = {"model": "predictor", "since": hour.isoformat(), "until": until.isoformat()}

    with platform.upgraded("moodstream", {"backfill": values}):
        platform.run_job("moodstream-backfill", _JOB_SECONDS)

    [scored] = platform.sql(
        "SELECT count(*) AS posts, count(DISTINCT id) AS different FROM rescored_predictions"  # noqa: S608
        f" WHERE source = '{SOURCE}' AND starts_with(id, '{batch.prefix}-')"
    )
    assert scored == {"posts": _COUNT, "different": _COUNT}


def test_a_deletion_notice_takes_a_post_out_of_the_warehouse_and_the_lake(
    platform: Platform, batch: Batch
) -> None:
    platform.run_job("moodstream-lake", _JOB_SECONDS)

    _withdraw(platform, f"{batch.prefix}-1")

    withdrawn = sum(str(number).startswith("1") for number in range(_COUNT))
    assert platform.rows(batch) == _COUNT - withdrawn
    assert _held(platform, batch)["posts"] == _COUNT - withdrawn
    assert platform.sql("SELECT * FROM rollup_errors") == []


def _withdraw(platform: Platform, prefix: str) -> None:
    """Deletes the posts made here whose id begins so."""
    platform.execute(
        "INSERT INTO deletion_notices (source, id) SELECT source, id FROM posts"  # noqa: S608
        f" WHERE source = '{SOURCE}' AND starts_with(id, '{prefix}') ON CONFLICT DO NOTHING"
    )
    platform.run_job("moodstream-lake", _JOB_SECONDS)


def _held(platform: Platform, batch: Batch) -> dict[str, int]:
    """How many files the lake has, and how many posts of the batch are in them."""
    pod = platform.start(
        "cronjob/moodstream-lake",
        "count_in_lake.py",
        f"{batch.prefix}-",
        labels=WAY_OUT | client_of("object-store"),
    )
    held: dict[str, int] = json.loads(platform.finish(pod, 120).splitlines()[-1])
    return held
