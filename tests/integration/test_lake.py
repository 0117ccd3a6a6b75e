"""The lake's jobs as real processes, on a real PostgreSQL and on a folder or a real object store:
what they write, that they end right however they are cut off, and what they never lose.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from pyarrow import fs

from services.core.lake import exclusive
from tests.integration.conftest import PostgresHandle
from tests.integration.test_maintenance import maintain, postgres_variables, query, result
from tests.integration.warehouse import add_posts
from tests.missing import missing
from tests.ports import free_port
from tests.waiting import status, wait_until

DAY = datetime(2026, 3, 1, tzinfo=UTC)
SECONDS = 120


@dataclass(frozen=True)
class Lake:
    """An empty lake, and how to look at it without the code under test."""

    environment: dict[str, str]
    files: fs.FileSystem
    root: str

    def table(self, day: datetime | None = None) -> pa.Table:
        """The rows of one day, or of all, as another program reads them."""
        path = f"{self.root}/posts" if day is None else f"{self.root}/posts/day={day:%Y-%m-%d}"
        return ds.dataset(
            path, filesystem=self.files, format="parquet", partitioning="hive"
        ).to_table()

    def ids(self, day: datetime | None = None) -> list[str]:
        table = self.table(day)
        return table.column("id").to_pylist() if table.num_columns else []


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake({"MOODSTREAM_LAKE_URI": f"file://{tmp_path}"}, fs.LocalFileSystem(), str(tmp_path))


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real object store, and the variables that name it."""
    minio = shutil.which("minio")
    if minio is None:
        missing("there is no minio in PATH; it is one Go program")
    port = free_port()
    keys = {"AWS_ACCESS_KEY_ID": "moodstream", "AWS_SECRET_ACCESS_KEY": uuid4().hex}
    server = subprocess.Popen(
        [minio, "server", str(tmp_path_factory.mktemp("minio")), "--address", f"127.0.0.1:{port}"],
        env=os.environ
        | {
            "MINIO_ROOT_USER": keys["AWS_ACCESS_KEY_ID"],
            "MINIO_ROOT_PASSWORD": keys["AWS_SECRET_ACCESS_KEY"],
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: status(f"{address}/minio/health/ready") == 200, SECONDS, "MinIO")
    yield keys | {"MOODSTREAM_LAKE_S3_ENDPOINT": address, "AWS_DEFAULT_REGION": "us-east-1"}
    server.terminate()
    server.wait(SECONDS)


@pytest.fixture
def s3_lake(object_store: dict[str, str]) -> Lake:
    bucket = f"lake-{uuid4().hex[:8]}"
    files = fs.S3FileSystem(
        access_key=object_store["AWS_ACCESS_KEY_ID"],
        secret_key=object_store["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=object_store["MOODSTREAM_LAKE_S3_ENDPOINT"],
        region="us-east-1",
        allow_bucket_creation=True,
    )
    files.create_dir(bucket)
    root = f"{bucket}/moodstream"
    return Lake(object_store | {"MOODSTREAM_LAKE_URI": f"s3://{root}"}, files, root)


def start(
    command: str, postgres: PostgresHandle, lake: Lake | None, *arguments: str, **environment: str
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "services.etl", command, *arguments],
        env=os.environ
        | postgres_variables(postgres.settings)
        | (lake.environment if lake else {})
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    command: str, postgres: PostgresHandle, lake: Lake | None, *arguments: str, **environment: str
) -> dict[str, Any]:
    return result(start(command, postgres, lake, *arguments, **environment))


def prune(postgres: PostgresHandle, before: datetime) -> dict[str, Any]:
    """Retention that takes what is older, and less than a day more."""
    days = (datetime.now(UTC) - before).days
    return result(maintain("prune", postgres.settings, MOODSTREAM_RETENTION_DAYS=str(days)))


def stored(postgres: PostgresHandle) -> int:
    count: int = query(postgres.settings, "SELECT count(*) FROM posts")[0][0]
    return count


def rollup_errors(postgres: PostgresHandle) -> list[tuple[Any, ...]]:
    return query(postgres.settings, "SELECT * FROM rollup_errors")


@pytest.mark.parametrize("where", ["lake", "s3_lake"])
def test_the_lake_holds_each_post_once_in_a_file_a_day(
    where: str, postgres: PostgresHandle, request: pytest.FixtureRequest
) -> None:
    lake: Lake = request.getfixturevalue(where)
    add_posts(postgres.settings, DAY, 3_000, span="3 days")

    said = run("daily", postgres, lake)
    again = run("daily", postgres, lake)

    table = lake.table()
    assert said["days_written"] == said["days_checked"] == 3
    assert (said["posts_written"], said["differences"]) == (3_000, 0)
    assert (again["days_written"], again["days_checked"]) == (0, 0)
    assert sorted(map(int, table.column("id").to_pylist())) == list(range(3_000))
    assert {str(day) for day in table.column("day").to_pylist()} == {
        "2026-03-01",
        "2026-03-02",
        "2026-03-03",
    }
    columns = ("text", "created_at", "topics", "label", "score", "model_version")
    row = table.filter(ds.field("id") == "501").select(list(columns)).to_pylist()[0]
    expected = query(
        postgres.settings,
        "SELECT text, created_at, topics, label::text, score, model_version FROM posts "
        "WHERE id = '501'",
    )[0]
    assert {**row, "score": pytest.approx(row["score"])} == dict(
        zip(columns, expected, strict=True)
    )


@pytest.mark.parametrize("where", ["lake", "s3_lake"])
def test_late_posts_join_a_day_whose_posts_have_been_pruned(
    where: str, postgres: PostgresHandle, request: pytest.FixtureRequest
) -> None:
    lake: Lake = request.getfixturevalue(where)
    add_posts(postgres.settings, DAY, 1_000)
    run("daily", postgres, lake)
    pruned = prune(postgres, DAY + timedelta(days=2))
    add_posts(postgres.settings, DAY, 50, first=1_000)

    said = run("daily", postgres, lake)

    assert pruned["posts"] == 1_000
    assert said["posts_written"] == 1_050
    assert said["differences"] == 0
    assert sorted(map(int, lake.ids(DAY))) == list(range(1_050))


def test_a_prune_keeps_what_the_lake_has_not_got(postgres: PostgresHandle, lake: Lake) -> None:
    add_posts(postgres.settings, DAY, 100)
    run("daily", postgres, lake)
    add_posts(postgres.settings, DAY, 1, first=100)
    add_posts(postgres.settings, DAY + timedelta(days=1), 10, first=200)

    held = prune(postgres, DAY + timedelta(days=3))
    run("daily", postgres, lake)
    pruned = prune(postgres, DAY + timedelta(days=3))

    assert (held["posts"], held["posts_kept_for_lake"]) == (0, 111)
    assert (pruned["posts"], pruned["posts_kept_for_lake"]) == (111, 0)
    assert len(lake.ids()) == 111


def test_a_prune_within_a_day_and_a_late_post_lose_nothing(
    postgres: PostgresHandle, lake: Lake
) -> None:
    day = (datetime.now(UTC) - timedelta(days=5)).replace(hour=0, minute=0, second=0, microsecond=0)
    add_posts(postgres.settings, day, 1_000)
    run("daily", postgres, lake)
    pruned = result(maintain("prune", postgres.settings, MOODSTREAM_RETENTION_DAYS="5"))
    add_posts(postgres.settings, day, 10, first=1_000)

    held = result(maintain("prune", postgres.settings, MOODSTREAM_RETENTION_DAYS="5"))
    run("daily", postgres, lake)

    before = datetime.fromisoformat(pruned["before"])
    assert pruned["posts"] == sum(day + timedelta(days=n / 1_000) < before for n in range(1_000))
    assert held["posts"] == 0
    assert sorted(map(int, lake.ids(day))) == list(range(1_010))


def test_a_rollup_that_is_wrong_is_named_with_both_figures(
    postgres: PostgresHandle, lake: Lake
) -> None:
    add_posts(postgres.settings, DAY, 1_000)
    run("lake", postgres, lake)
    query(
        postgres.settings,
        "UPDATE rollup_minute SET positive = positive + 1 WHERE topic = 'strike' AND shard = 0 "
        "AND minute = (SELECT min(minute) FROM rollup_minute WHERE topic = 'strike' AND shard = 0)",
    )

    job = start("aggregates", postgres, lake)
    _, errors = job.communicate(timeout=SECONDS)

    assert job.returncode == 1
    assert "1 daily aggregates differ" in errors
    assert "2026-03-01 strike: the lake says posts 333" in errors
    differences = query(
        postgres.settings,
        "SELECT topic, (rollups->>'positive')::int - (lake->>'positive')::int "
        "FROM aggregate_differences",
    )
    assert differences == [("strike", 1)]


def test_the_aggregates_are_those_that_sql_counts(postgres: PostgresHandle, lake: Lake) -> None:
    add_posts(postgres.settings, DAY, 1_000)

    run("daily", postgres, lake)

    counted = query(
        postgres.settings,
        "SELECT topic, posts, negative, neutral, positive, unscored, round(average_score::numeric, "
        "5) FROM daily_aggregates ORDER BY topic",
    )
    assert counted == query(
        postgres.settings,
        "SELECT topic, posts, negative, neutral, positive, unscored, round(average_score, 5) "
        "FROM sentiment_by_day ORDER BY topic",
    )
    assert [row[0] for row in counted] == ["*", "rail", "strike"]


@pytest.mark.parametrize("where", ["lake", "s3_lake"])
def test_a_deleted_post_is_gone_from_everywhere_and_from_every_count(
    where: str, postgres: PostgresHandle, request: pytest.FixtureRequest
) -> None:
    lake: Lake = request.getfixturevalue(where)
    settings = postgres.settings
    add_posts(settings, DAY, 500)
    add_posts(settings, DAY + timedelta(days=3), 500, first=500)
    query(
        settings,
        "INSERT INTO shadow_predictions (source, id, champion_version, champion_label, "
        "champion_score, model_name, model_version, label, p_negative, p_neutral, p_positive) "
        "VALUES ('replay', '700', '1', 'neutral', 0, 'sentiment', '2', 'neutral', 0, 1, 0)",
    )
    query(
        settings,
        "INSERT INTO corrections (source, post_id, label, corrected_by) "
        "VALUES ('replay', '700', 'negative', 'Ada')",
    )
    run("daily", postgres, lake)
    prune(postgres, DAY + timedelta(days=1))  # The first day is in the lake only from here on.

    said = run("delete", postgres, lake, "replay/5", "replay/700", "replay/nobody")
    checked = run("aggregates", postgres, lake)

    assert said["new_notices"] == 3
    assert (said["posts_deleted"], said["posts_deleted_only_in_lake"]) == (1, 1)
    assert said["days_written"] == 2
    assert set(map(str, range(1_000))) - set(lake.ids()) == {"5", "700"}
    assert checked["days_checked"] == 2
    assert rollup_errors(postgres) == []
    assert query(settings, "SELECT sum(posts) FROM rollup_hour WHERE topic = '*'") == [(998,)]
    assert query(settings, "SELECT 1 FROM shadow_predictions") == []
    assert query(settings, "SELECT 1 FROM corrections") == []
    assert query(settings, "SELECT 1 FROM posts WHERE id IN ('5', '700')") == []
    assert query(settings, "SELECT 1 FROM deletion_notices WHERE applied_at IS NULL") == []


def test_deletions_while_posts_come_in_leave_every_count_right(
    postgres: PostgresHandle, lake: Lake
) -> None:
    add_posts(postgres.settings, DAY, 3_000, span="1 hour")
    query(
        postgres.settings,
        "INSERT INTO deletion_notices SELECT source, id FROM posts WHERE id::int % 2 = 0",
    )
    job = start("daily", postgres, lake)
    first = 3_000

    while job.poll() is None:
        add_posts(postgres.settings, DAY, 50, first=first, span="1 hour")
        first += 50

    said = result(job)
    assert said["posts_deleted"] == 1_500
    assert first > 3_000
    assert rollup_errors(postgres) == []
    run("daily", postgres, lake)
    assert len(lake.ids()) == first - 1_500


def test_a_day_of_which_every_post_is_deleted_leaves_no_trace(
    postgres: PostgresHandle, lake: Lake
) -> None:
    add_posts(postgres.settings, DAY, 3)
    run("daily", postgres, lake)

    run("delete", postgres, lake, "replay/0", "replay/1", "replay/2")
    run("daily", postgres, lake)

    assert lake.ids() == []
    for table in ("rollup_minute", "sentiment_by_day", "sentiment_by_hour", "daily_aggregates"):
        assert query(postgres.settings, f"SELECT 1 FROM {table}") == []  # noqa: S608
    assert rollup_errors(postgres) == []


def test_a_deleted_post_that_is_delivered_again_goes_again(
    postgres: PostgresHandle, lake: Lake
) -> None:
    add_posts(postgres.settings, DAY, 10)
    run("delete", postgres, lake, "replay/0")
    add_posts(postgres.settings, DAY, 1, first=0)

    said = run("daily", postgres, lake)

    assert said["posts_deleted"] == 1
    assert "0" not in lake.ids()
    assert rollup_errors(postgres) == []


def test_posts_are_deleted_where_there_is_no_lake(postgres: PostgresHandle) -> None:
    add_posts(postgres.settings, DAY, 10)

    said = run("delete", postgres, None, "replay/0")

    assert said["posts_deleted"] == 1
    assert stored(postgres) == 9
    assert rollup_errors(postgres) == []


def test_what_is_no_post_is_refused_before_anything_is_deleted(postgres: PostgresHandle) -> None:
    add_posts(postgres.settings, DAY, 1)

    job = start("delete", postgres, None, "replay/0", "nonsense")
    _, errors = job.communicate(timeout=SECONDS)

    assert job.returncode == 2
    assert "'nonsense' names no post" in errors
    assert stored(postgres) == 1


def test_a_file_that_is_lost_is_written_anew_or_reported(
    postgres: PostgresHandle, lake: Lake
) -> None:
    other = DAY + timedelta(days=3)
    add_posts(postgres.settings, DAY, 50)
    add_posts(postgres.settings, other, 50, first=50)
    run("daily", postgres, lake)
    prune(postgres, DAY + timedelta(days=1))
    for day in (DAY, other):
        lake.files.delete_dir(f"{lake.root}/posts/day={day:%Y-%m-%d}")

    job = start("lake", postgres, lake)
    _, errors = job.communicate(timeout=SECONDS)

    assert job.returncode == 1
    assert "the lake has lost 2026-03-01, and" in errors
    assert len(lake.ids(other)) == 50


def test_files_that_the_warehouse_has_forgotten_are_kept_and_known_again(
    postgres: PostgresHandle, lake: Lake
) -> None:
    add_posts(postgres.settings, DAY, 100)
    run("daily", postgres, lake)
    prune(postgres, DAY + timedelta(days=1))
    query(postgres.settings, "DELETE FROM lake_days")

    said = run("daily", postgres, lake)

    assert said["posts_written"] == 100
    assert len(lake.ids()) == 100


def test_another_lake_than_the_registered_one_is_refused(
    postgres: PostgresHandle, lake: Lake, tmp_path: Path
) -> None:
    run("lake", postgres, lake)

    for command in ("lake", "daily", "delete"):
        job = start(command, postgres, lake, MOODSTREAM_LAKE_URI=f"file://{tmp_path}/other")
        _, errors = job.communicate(timeout=SECONDS)

        assert job.returncode == 2
        assert f"the posts of this warehouse go to file://{tmp_path}" in errors


def test_a_deletion_that_forgets_the_lake_is_refused_and_waits(
    postgres: PostgresHandle, lake: Lake
) -> None:
    run("lake", postgres, lake)
    query(postgres.settings, "INSERT INTO deletion_notices VALUES ('replay', 'only in the lake')")

    job = start("delete", postgres, None)
    _, errors = job.communicate(timeout=SECONDS)

    waiting = "SELECT count(*) FROM deletion_notices WHERE applied_at IS NULL"
    assert job.returncode == 2
    assert "MOODSTREAM_LAKE_URI is unset" in errors
    assert query(postgres.settings, waiting) == [(1,)]


def kill_when(job: "subprocess.Popen[str]", condition: Callable[[], bool]) -> bool:
    """Kills a job at the moment that the condition holds; whether it was still at work."""
    wait_until(lambda: condition() or job.poll() is not None, SECONDS, "the moment", every=0.001)
    job.kill()
    job.communicate(timeout=SECONDS)
    return job.returncode == -9


@pytest.mark.parametrize("where", ["lake", "s3_lake"])
def test_a_daily_job_killed_at_many_moments_ends_right(
    where: str, postgres: PostgresHandle, request: pytest.FixtureRequest
) -> None:
    lake: Lake = request.getfixturevalue(where)
    settings = postgres.settings
    days = 6
    add_posts(settings, DAY, 60_000, span=f"{days} days")
    query(
        settings,
        "INSERT INTO deletion_notices SELECT source, id FROM posts WHERE id::int % 60 = 0",
    )

    def notices() -> int:
        answer: int = query(
            settings, "SELECT count(*) FROM deletion_notices WHERE applied_at IS NOT NULL"
        )[0][0]
        return answer

    def recorded() -> int:
        answer: int = query(settings, "SELECT count(*) FROM lake_days")[0][0]
        return answer

    def staged() -> bool:
        selector = fs.FileSelector(f"{lake.root}/_staging", allow_not_found=True)
        return bool(lake.files.get_file_info(selector))

    killed = [
        kill_when(start("daily", postgres, lake), moment)
        for moment in (
            lambda: notices() >= 500,
            lambda: recorded() >= 1,
            staged,
            lambda: recorded() >= 3,
            lambda: recorded() == days,
        )
    ]
    assert rollup_errors(postgres) == []
    run("daily", postgres, lake)

    assert any(killed)
    assert sorted(map(int, lake.ids())) == [n for n in range(60_000) if n % 60]
    assert not staged()
    assert run("aggregates", postgres, lake)["days_checked"] == days
    assert rollup_errors(postgres) == []
    assert prune(postgres, DAY + timedelta(days=days + 1))["posts"] == 59_000


@pytest.mark.parametrize("command", ["daily", "lake", "aggregates", "delete"])
def test_only_one_job_of_the_lake_is_at_work(
    command: str, postgres: PostgresHandle, lake: Lake
) -> None:
    with exclusive(postgres.settings, "test"):
        job = start(command, postgres, lake)
        _, errors = job.communicate(timeout=SECONDS)

    assert job.returncode == 1
    assert errors.startswith(f"{command}: another job of the lake, or a prune, is at work;")


def test_a_prune_does_not_run_beside_a_job_of_the_lake(postgres: PostgresHandle) -> None:
    with exclusive(postgres.settings, "test"):
        job = maintain("prune", postgres.settings, MOODSTREAM_RETENTION_DAYS="1")
        _, errors = job.communicate(timeout=SECONDS)

    assert job.returncode == 1
    assert errors.startswith("prune: another job of the lake, or a prune, is at work;")
