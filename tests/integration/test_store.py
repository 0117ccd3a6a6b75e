"""The storing stage on a real PostgreSQL: what two writers do to each other."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from services.consumer.batch import Record, ScoredBatch, decode_batch
from services.consumer.store import FencedError, Store
from services.core.errors import TemporaryError
from services.core.events import Post, encode
from services.core.postgres import connect, transaction
from tests.integration.conftest import PostgresHandle

NOW = datetime.now(UTC)


def batch(numbers: Sequence[int], start: int = 0) -> ScoredBatch:
    """Posts of those numbers, at consecutive offsets of partition 0."""
    posts = [
        Post(source="replay", id=str(n), text="fine", language="en", created_at=NOW)
        for n in numbers
    ]
    records = [Record("posts", 0, start + i, 0, None, encode(p)) for i, p in enumerate(posts)]
    decoded = decode_batch(0, "posts", {0: records}, {0: start}, NOW)
    rows = np.tile(np.array([0.1, 0.2, 0.7], dtype=np.float32), (len(posts), 1))
    return ScoredBatch(decoded, range(len(posts)), [], rows, "sentiment", "1")


def test_a_batch_written_twice_is_refused_the_second_time(postgres: PostgresHandle) -> None:
    store = Store(postgres.settings, "group")
    store.place("posts", 0, 0, 3)
    first = store.write(batch([1, 2, 3]))

    with pytest.raises(FencedError):
        store.write(batch([1, 2, 3]))

    assert first == {"stored": 3, "duplicates": 0, "dead_lettered": 0}
    assert store.place("posts", 0, 0, 3) == 3
    store.close()


def test_one_post_in_two_records_is_stored_once(postgres: PostgresHandle) -> None:
    store = Store(postgres.settings, "group")
    store.place("posts", 0, 0, 3)

    counts = store.write(batch([1, 1, 2]))

    assert counts == {"stored": 2, "duplicates": 1, "dead_lettered": 0}
    store.close()


def test_a_writer_frozen_inside_its_transaction_does_not_block_the_next_owner(
    postgres: PostgresHandle,
) -> None:
    frozen = connect(postgres.settings, "frozen")
    frozen.cursor().execute(
        "INSERT INTO posts (source, id, text, created_at, topics, kafka_partition, kafka_offset) "
        "VALUES ('replay', '1', 'fine', now(), '{}', 0, 0)"
    )
    store = Store(postgres.settings, "group")
    store.place("posts", 0, 0, 1)

    counts = store.write(batch([1]))

    assert counts["stored"] == 1
    store.close()
    frozen.close()


def test_when_kafka_has_a_new_topic_of_that_name_it_is_read_from_its_start(
    postgres: PostgresHandle,
) -> None:
    store = Store(postgres.settings, "group")
    store.place("posts", 0, 0, 3)
    store.write(batch([1, 2, 3]))

    place = store.place("posts", 0, 0, 1)
    counts = store.write(batch([4]))

    assert (place, counts["stored"]) == (0, 1)
    store.close()


def test_a_schema_that_is_too_old_is_worth_waiting_for_and_says_what_to_do(
    postgres: PostgresHandle,
) -> None:
    connection = connect(postgres.settings, "test")

    with (
        pytest.raises(TemporaryError, match=r"run python -m services\.maintenance migrate"),
        transaction(connection, 10) as cursor,
    ):
        cursor.execute("SELECT * FROM of_a_later_release")

    assert connection.closed


def test_the_hours_follow_the_minutes_whoever_changes_them(postgres: PostgresHandle) -> None:
    def ask(sql: str) -> list[tuple[object, ...]]:
        connection = connect(postgres.settings, "test")
        with transaction(connection, 10) as cursor:
            cursor.execute(sql)
            rows = cursor.fetchall() if cursor.description else []
        connection.close()
        return rows

    hours = "SELECT topic, hour, posts, positive, average_score FROM sentiment_by_hour ORDER BY 1"
    store = Store(postgres.settings, "group")
    store.place("posts", 0, 0, 5)
    store.write(batch([1, 2, 3]))
    store.write(batch([3, 4], start=3))
    stored = ask(hours)
    ask("UPDATE rollup_minute SET posts = posts + 1, positive = positive + 1")
    ask(
        "UPDATE rollup_minute SET minute = date_trunc('hour', minute) - interval '90 minutes', "
        "topic = 'moved'"
    )
    moved = ask(hours)
    wrong = ask("SELECT topic, minute FROM rollup_errors WHERE expected->>'hour' IS NOT NULL")
    ask("DELETE FROM rollup_minute")

    hour = NOW.replace(minute=0, second=0, microsecond=0)
    assert [row[:4] for row in stored] == [("*", hour, 4, 4)]
    assert float(str(stored[0][4])) == pytest.approx(0.6)
    assert [row[:4] for row in moved] == [("moved", hour - timedelta(hours=2), 5, 5)]
    assert wrong == []
    assert ask(hours) == []
    store.close()


def test_an_hour_that_is_not_the_sum_of_its_minutes_is_an_error(postgres: PostgresHandle) -> None:
    store = Store(postgres.settings, "group")
    store.place("posts", 0, 0, 3)
    store.write(batch([1, 2, 3]))
    store.close()
    connection = connect(postgres.settings, "test")
    with transaction(connection, 10) as cursor:
        cursor.execute("UPDATE rollup_hour SET posts = posts + 1")
        cursor.execute("SELECT topic, expected->>'posts', found->>'posts' FROM rollup_errors")
        wrong = cursor.fetchall()
    connection.close()

    assert wrong == [("*", "3", "4")]
