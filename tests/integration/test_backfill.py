"""Backfills as real processes on a real PostgreSQL and a real predictor: each post once, whoever
dies.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.core.inference import InferenceClient
from services.core.settings import InferenceSettings
from tests.integration.conftest import PostgresHandle, Predictor
from tests.integration.test_lake import Lake, lake, prune, run, start
from tests.integration.test_maintenance import query, result
from tests.integration.warehouse import add_posts
from tests.waiting import wait_until

__all__ = ["lake"]

DAY = datetime(2026, 3, 1, tzinfo=UTC)
SECONDS = 120


@pytest.fixture
def served(predictor: Predictor) -> dict[str, str]:
    """The variables that name the predictor; workers do not rest."""
    return {"MOODSTREAM_INFERENCE_URL": predictor.url, "MOODSTREAM_BACKFILL_SHARE": "1"}


def rescored(postgres: PostgresHandle) -> list[int]:
    rows = query(
        postgres.settings, "SELECT id::int FROM rescored_predictions WHERE model_version = '7'"
    )
    return sorted(number for (number,) in rows)


def scored_before(posts: int) -> list[int]:
    """Ids of those posts, from 0 on, that have a prediction."""
    return [number for number in range(posts) if number % 10 != 9]


def progress(postgres: PostgresHandle) -> tuple[Any, ...]:
    columns = "hours, hours_done, posts, posts_read, rejected, finished_at IS NOT NULL"
    (row,) = query(postgres.settings, f"SELECT {columns} FROM backfill_progress")  # noqa: S608
    return row


def test_workers_share_a_backfill_and_leave_the_champions_word_as_it_was(
    postgres: PostgresHandle, predictor: Predictor, served: dict[str, str]
) -> None:
    add_posts(postgres.settings, DAY, 6_000, span="6 hours")
    before = query(postgres.settings, "SELECT * FROM posts ORDER BY id")

    workers = [start("backfill", postgres, None, **served) for _ in range(2)]
    said = [result(worker) for worker in workers]
    again = run("backfill", postgres, None, **served)

    assert sum(each["posts_read"] for each in said) == 5_400
    assert again["posts_read"] == 0
    assert rescored(postgres) == scored_before(6_000)
    assert progress(postgres) == (6, 6, 5_400, 5_400, 0, True)
    assert query(postgres.settings, "SELECT * FROM posts ORDER BY id") == before
    stored = query(
        postgres.settings,
        "SELECT said.p_negative, said.p_neutral, said.p_positive, text "
        "FROM rescored_predictions AS said JOIN posts USING (source, id) WHERE id = '1234'",
    )[0]
    answer = InferenceClient(InferenceSettings(url=predictor.url)).score([stored[3]])
    assert stored[:3] == pytest.approx(answer.probabilities[0].tolist(), abs=1e-5)


def test_a_backfill_whose_workers_are_killed_again_and_again_ends_right(
    postgres: PostgresHandle, served: dict[str, str]
) -> None:
    add_posts(postgres.settings, DAY, 60_000, span="3 hours")
    reached = []
    for target in (500, 10_000, 25_000):
        workers = [start("backfill", postgres, None, **served) for _ in range(2)]
        wait_until(
            lambda target=target: len(rescored(postgres)) >= target, SECONDS, f"{target} posts"
        )
        for worker in workers:
            worker.kill()
            worker.communicate(timeout=SECONDS)
        reached.append(len(rescored(postgres)))

    said = run("backfill", postgres, None, **served)

    assert rescored(postgres) == scored_before(60_000)
    # What had been stored was not read again.
    assert said["posts_read"] <= 54_000 - reached[-1]
    assert progress(postgres) == (3, 3, 54_000, 54_000, 0, True)


def test_posts_that_came_since_are_scored_by_the_next_run(
    postgres: PostgresHandle, served: dict[str, str]
) -> None:
    add_posts(postgres.settings, DAY, 100, span="1 hour")
    run("backfill", postgres, None, **served)
    add_posts(postgres.settings, DAY, 10, first=100, span="1 hour")
    add_posts(postgres.settings, DAY + timedelta(hours=1), 10, first=110, span="1 hour")

    run("backfill", postgres, None, **served)

    assert rescored(postgres) == scored_before(120)
    assert progress(postgres)[1:4] == (2, 108, 108)


def test_what_has_been_pruned_is_read_from_the_lake(
    postgres: PostgresHandle, lake: Lake, served: dict[str, str]
) -> None:
    add_posts(postgres.settings, DAY, 5_000)
    run("daily", postgres, lake)
    prune(postgres, DAY + timedelta(days=1))

    run("backfill", postgres, lake, **served)

    assert rescored(postgres) == scored_before(5_000)


def test_another_version_than_the_one_served_is_refused(
    postgres: PostgresHandle, served: dict[str, str]
) -> None:
    job = start("backfill", postgres, None, **served, MOODSTREAM_BACKFILL_MODEL_VERSION="8")

    _, errors = job.communicate(timeout=SECONDS)

    assert job.returncode == 1
    assert "serves version 7, not 8" in errors


def test_a_text_that_the_model_rejects_does_not_hold_the_others_up(
    postgres: PostgresHandle, served: dict[str, str]
) -> None:
    add_posts(postgres.settings, DAY, 100, span="1 hour")
    query(postgres.settings, "UPDATE posts SET text = repeat('a', 20000) WHERE id = '42'")

    run("backfill", postgres, None, **served)

    assert rescored(postgres) == [number for number in scored_before(100) if number != 42]
    assert progress(postgres) == (1, 1, 90, 90, 1, True)


def test_a_post_that_must_go_is_not_scored_anew(
    postgres: PostgresHandle, served: dict[str, str]
) -> None:
    add_posts(postgres.settings, DAY, 10, span="1 hour")
    query(postgres.settings, "INSERT INTO deletion_notices (source, id) VALUES ('replay', '3')")

    run("backfill", postgres, None, **served)

    assert 3 not in rescored(postgres)
