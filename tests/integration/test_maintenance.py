"""The maintenance jobs as real processes on a real PostgreSQL: migrations in parallel and late
databases, what a prune deletes and what it keeps, and what a check finds.
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from services.core import warehouse
from services.core.postgres import connect, transaction
from services.core.settings import PostgresSettings
from services.local.postgres import Postgres
from tests.integration.conftest import KafkaHandle, PostgresHandle, Predictor
from tests.ports import free_port
from tests.waiting import wait_until

DAYS = 30
SECONDS = 120
NEWEST = max(path.name[:4] for path in Path(warehouse.__file__).parent.glob("versions/0*.py"))


def maintain(
    command: str, settings: PostgresSettings | None = None, **environment: str
) -> "subprocess.Popen[str]":
    """One job, on that database; further settings are environment variables."""
    variables = {} if settings is None else postgres_variables(settings)
    return subprocess.Popen(
        [sys.executable, "-m", "services.maintenance", command],
        env=os.environ | variables | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def postgres_variables(settings: PostgresSettings) -> dict[str, str]:
    password = settings.password
    return {
        "MOODSTREAM_POSTGRES_HOST": settings.host,
        "MOODSTREAM_POSTGRES_PORT": str(settings.port),
        "MOODSTREAM_POSTGRES_DATABASE": settings.database,
        "MOODSTREAM_POSTGRES_PASSWORD": password.get_secret_value() if password else "",
    }


def result(job: "subprocess.Popen[str]") -> dict[str, Any]:
    """What a job that succeeds says in its last line."""
    output, errors = job.communicate(timeout=SECONDS)
    assert job.returncode == 0, errors
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answer


def query(settings: PostgresSettings, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
    connection = connect(settings, "test")
    with transaction(connection, 60) as cursor:
        cursor.execute(sql, arguments or None)
        rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


@pytest.fixture
def empty(postgres_server: Postgres) -> PostgresSettings:
    """A database without a schema."""
    database = f"empty_{uuid4().hex[:8]}"
    postgres_server.create_database(database)
    return postgres_server.settings_of(database)


def test_an_empty_database_that_several_migrate_at_once_is_migrated_once(
    empty: PostgresSettings,
) -> None:
    jobs = [maintain("migrate", empty) for _ in range(3)]

    results = [result(job) for job in jobs]

    assert results == [{"schema": NEWEST}] * 3
    assert query(empty, "SELECT version_num FROM alembic_version") == [(NEWEST,)]
    assert query(empty, "SELECT * FROM rollup_errors") == []


def test_a_migration_waits_for_a_database_that_is_away(postgres: PostgresHandle) -> None:
    postgres.stop()
    job = maintain("migrate", postgres.settings)
    assert job.stderr is not None
    first = json.loads(job.stderr.readline())

    postgres.start()

    assert (first["event"], first["level"]) == ("waiting", "warning")
    assert "Connection refused" in first["reason"]
    assert result(job) == {"schema": NEWEST}


@pytest.mark.parametrize("command", ["migrate", "prune"])
def test_a_database_that_stays_away_is_one_line_and_exit_status_1(command: str) -> None:
    nowhere = PostgresSettings(host="127.0.0.1", port=free_port())
    job = maintain(
        command,
        nowhere,
        MOODSTREAM_MAINTENANCE_WAIT_SECONDS="0",
        MOODSTREAM_RETENTION_DAYS=str(DAYS),
    )

    output, errors = job.communicate(timeout=SECONDS)

    assert job.returncode == 1
    assert output == ""
    assert errors.startswith(f"{command}: PostgreSQL: ")
    assert "Traceback" not in errors


def test_nothing_is_pruned_until_somebody_says_how_old(postgres: PostgresHandle) -> None:
    job = maintain("prune", postgres.settings)

    _, errors = job.communicate(timeout=SECONDS)

    assert job.returncode == 2
    assert "MOODSTREAM_RETENTION_DAYS" in errors


def fill(settings: PostgresSettings, days_ago: float, posts: int) -> None:
    """Posts of that age with their rollups, a dead letter and a delivered message beside them."""
    at = datetime.now(UTC) - timedelta(days=days_ago)
    query(
        settings,
        "INSERT INTO posts (source, id, text, created_at, author, topics, kafka_partition, "
        "kafka_offset) SELECT 'replay', %s || n, 'fine', %s, 'hash', '{}', 0, n "
        "FROM generate_series(1, %s) AS n",
        f"{days_ago}-",
        at,
        posts,
    )
    query(
        settings,
        "INSERT INTO rollup_minute "
        "VALUES ('*', date_trunc('minute', %s), 0, %s, 0, 0, 0, %s, 0, 0)",
        at,
        posts,
        posts,
    )
    query(
        settings,
        "INSERT INTO dead_letters VALUES ('posts', 0, %s, 'invalid_json', 'no', %s)",
        int(days_ago * 1000),
        at,
    )
    query(
        settings,
        "INSERT INTO outbox (kind, payload, created_at, delivered_at) VALUES "
        "('told', '{}', %s, %s), ('untold', '{}', %s, NULL)",
        at,
        at,
        at,
    )
    query(
        settings,
        "INSERT INTO alerts (rule, kind, topic, posts, summary, opened_at, closed_at) VALUES "
        "(%s, 'level', '*', 1, 'low', %s, %s), (%s, 'level', '*', 1, 'low', %s, NULL)",
        *(f"over-{days_ago}", at, at, f"open-{days_ago}", at),
    )
    query(
        settings,
        "WITH told AS (INSERT INTO deliveries (channel, kind, payload, state, created_at) VALUES "
        "('hook', 'k', '{}', 'delivered', %s), ('hook', 'k', '{}', 'failed', %s), "
        "('hook', 'k', '{}', 'pending', %s) RETURNING id) "
        "INSERT INTO delivery_attempts (delivery, seconds) SELECT id, 1 FROM told",
        *(at, at, at),
    )
    query(
        settings,
        "INSERT INTO shadow_predictions (source, id, champion_version, champion_label, "
        "champion_score, model_name, model_version, label, p_negative, p_neutral, p_positive, "
        "stored_at) VALUES ('replay', %s, '1', 'neutral', 0, 'sentiment', '2', 'neutral', 0, 1, "
        "0, %s)",
        f"{days_ago}-1",
        at,
    )
    query(
        settings,
        "INSERT INTO shadow_batches (champion_version, challenger_version, posts, "
        "champion_seconds, challenger_seconds, stored_at) VALUES ('1', '2', 1, 0.1, 0.1, %s)",
        at,
    )
    query(
        settings,
        "INSERT INTO corrections (source, post_id, label, corrected_by, corrected_at) "
        "VALUES ('replay', %s, 'negative', 'Ada', %s)",
        f"{days_ago}-1",
        at,
    )
    query(
        settings,
        "INSERT INTO promotions (alias, version, state, reason, at) "
        "VALUES ('champion', '1', 'serving', 'all checks passed', %s)",
        at,
    )


def counts(settings: PostgresSettings) -> dict[str, int]:
    tables = (
        "posts",
        "dead_letters",
        "outbox",
        "shadow_predictions",
        "shadow_batches",
        "alerts",
        "deliveries",
        "delivery_attempts",
        "corrections",
        "promotions",
        "rollup_minute",
        "rollup_errors",
    )
    return {
        table: query(settings, f"SELECT count(*) FROM {table}")[0][0]  # noqa: S608 - names above
        for table in tables
    }


def test_a_prune_deletes_what_is_old_and_keeps_the_rollups(postgres: PostgresHandle) -> None:
    fill(postgres.settings, DAYS + 1, posts=25_000)  # more than two batches
    fill(postgres.settings, DAYS - 1, posts=7)

    pruned = result(maintain("prune", postgres.settings, MOODSTREAM_RETENTION_DAYS=str(DAYS)))
    left = counts(postgres.settings)
    again = result(maintain("prune", postgres.settings, MOODSTREAM_RETENTION_DAYS=str(DAYS)))

    assert {name: count for name, count in pruned.items() if name != "before"} == {
        "posts": 25_000,
        "dead_letters": 1,
        "outbox": 1,
        "shadow_predictions": 1,
        "shadow_batches": 1,
        "rescored_predictions": 0,
        "alerts": 1,
        "deliveries": 2,
        "posts_kept_for_lake": 0,
    }
    assert left == {
        "posts": 7,
        "dead_letters": 1,
        "outbox": 3,
        "shadow_predictions": 1,
        "shadow_batches": 1,
        "alerts": 3,
        "deliveries": 4,
        "delivery_attempts": 4,
        "corrections": 1,
        "promotions": 2,
        "rollup_minute": 2,
        "rollup_errors": 0,
    }
    assert query(postgres.settings, "SELECT DISTINCT kind FROM outbox WHERE delivered_at IS NULL")
    assert {count for name, count in again.items() if name != "before"} == {0}


def test_after_a_prune_the_minutes_that_are_complete_are_still_compared(
    postgres: PostgresHandle,
) -> None:
    fill(postgres.settings, DAYS + 1, posts=3)
    fill(postgres.settings, DAYS - 1, posts=3)
    result(maintain("prune", postgres.settings, MOODSTREAM_RETENTION_DAYS=str(DAYS)))

    query(postgres.settings, "UPDATE rollup_minute SET posts = posts + 1")

    wrong = query(postgres.settings, "SELECT minute FROM rollup_errors")
    assert len(wrong) == 1
    assert wrong[0][0] > datetime.now(UTC) - timedelta(days=DAYS)


def test_more_days_do_not_make_deleted_posts_an_error(postgres: PostgresHandle) -> None:
    fill(postgres.settings, DAYS + 1, posts=3)
    result(maintain("prune", postgres.settings, MOODSTREAM_RETENTION_DAYS=str(DAYS)))

    result(maintain("prune", postgres.settings, MOODSTREAM_RETENTION_DAYS=str(10 * DAYS)))

    assert counts(postgres.settings)["rollup_errors"] == 0


def test_a_prune_killed_at_any_moment_leaves_no_error_and_the_next_one_goes_on(
    postgres: PostgresHandle,
) -> None:
    fill(postgres.settings, DAYS + 1, posts=60_000)
    job = maintain("prune", postgres.settings, MOODSTREAM_RETENTION_DAYS=str(DAYS))
    wait_until(lambda: counts(postgres.settings)["posts"] < 60_000, SECONDS, "a first batch")
    job.kill()
    job.communicate()
    # The server finishes the statement of the one that is gone, and keeps its lock until then.
    held = "SELECT 1 FROM pg_locks JOIN pg_database d ON d.oid = database"
    held += " WHERE locktype = 'advisory' AND datname = current_database()"
    wait_until(lambda: query(postgres.settings, held) == [], SECONDS, "a free lock")

    halfway = counts(postgres.settings)
    pruned = result(maintain("prune", postgres.settings, MOODSTREAM_RETENTION_DAYS=str(DAYS)))

    assert halfway["rollup_errors"] == 0
    assert pruned["posts"] >= halfway["posts"] - 10_000
    assert counts(postgres.settings)["posts"] == 0


def test_a_check_names_each_target_and_what_it_said(
    postgres: PostgresHandle, kafka: KafkaHandle, predictor: Predictor
) -> None:
    job = maintain(
        "check",
        postgres.settings,
        MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS=kafka.settings.bootstrap_servers,
        MOODSTREAM_KAFKA_POSTS_TOPIC=kafka.settings.posts_topic,
        MOODSTREAM_INFERENCE_URL=predictor.url,
        MOODSTREAM_CHECK_URLS=f"{predictor.url}/livez",
    )

    _, errors = job.communicate(timeout=SECONDS)

    lines = [line for line in errors.splitlines() if line.startswith("ok ")]
    assert job.returncode == 0, errors
    assert [line.split()[1] for line in lines] == [
        "postgres",
        "kafka",
        "predictor",
        f"{predictor.url}/livez:",
    ]
    assert f"moodstream in {postgres.settings.database}" in lines[0]
    assert f"partitions of {kafka.settings.posts_topic}" in lines[1]
    assert f"sentiment {predictor.version}" in lines[2]


def test_a_check_fails_for_what_it_cannot_reach_and_still_asks_the_rest(
    postgres: PostgresHandle, kafka: KafkaHandle
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    job = maintain(
        "check",
        postgres.settings,
        MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS=kafka.settings.bootstrap_servers,
        MOODSTREAM_KAFKA_POSTS_TOPIC="nobody-made-this",
        MOODSTREAM_CHECK_URLS=f"{nobody}/livez",
        MOODSTREAM_MAINTENANCE_WAIT_SECONDS="0",
    )

    _, errors = job.communicate(timeout=SECONDS)

    words = [line.split()[0] for line in errors.splitlines()]
    assert job.returncode == 1
    assert [word for word in words if word in ("ok", "failed")] == ["ok", "failed", "failed"]
    assert errors.splitlines()[-1].startswith("check: not reached: kafka ")
    assert nobody in errors.splitlines()[-1]
