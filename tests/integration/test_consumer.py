"""The consumer as a real process between real Kafka, PostgreSQL and predictor: nothing is lost,
nothing is stored twice, whatever dies.
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from services.consumer.replay import replay
from services.core.events import Post, encode
from services.core.kafka import MAX_POST_BYTES, make_consumer, make_producer
from services.core.postgres import connect, transaction
from tests.integration.conftest import PARTITIONS, KafkaHandle, PostgresHandle, Predictor
from tests.ports import free_port
from tests.waiting import status, wait_until

NOW = datetime.now(UTC)
HUMAN_RATED = Path(__file__).parents[3] / "shared" / "data" / "human_rated_posts.csv"


class Rig:
    """One test's Kafka topics, warehouse and consumers."""

    def __init__(
        self, kafka: KafkaHandle, postgres: PostgresHandle, predictor: Predictor, logs: Path
    ) -> None:
        self.kafka, self.postgres, self.predictor, self._logs = kafka, postgres, predictor, logs
        self.consumers: list[subprocess.Popen[bytes]] = []
        self.sent = 0

    def start(self, **settings: str) -> subprocess.Popen[bytes]:
        """Starts one more consumer; settings are environment variables without MOODSTREAM_."""
        password = self.postgres.settings.password
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.settings.bootstrap_servers,
            "KAFKA_POSTS_TOPIC": self.kafka.settings.posts_topic,
            "KAFKA_DEAD_LETTER_TOPIC": self.kafka.settings.dead_letter_topic,
            "POSTGRES_HOST": self.postgres.settings.host,
            "POSTGRES_PORT": str(self.postgres.settings.port),
            "POSTGRES_DATABASE": self.postgres.settings.database,
            "POSTGRES_PASSWORD": password.get_secret_value() if password else "",
            "INFERENCE_URL": self.predictor.url,
            "SERVICE_BIND": "127.0.0.1",
            "SERVICE_PORT": str(free_port()),
            "CONSUMER_GROUP": f"group-{self.kafka.settings.posts_topic}",
            "CONSUMER_BATCH_RECORDS": "200",
            "CONSUMER_SESSION_TIMEOUT_MS": "6000",
        } | settings
        log = self._logs / f"consumer-{len(self.consumers)}.log"
        with log.open("wb") as file:
            consumer = subprocess.Popen(
                [sys.executable, "-m", "services.consumer"],
                env=os.environ
                | {f"MOODSTREAM_{name}": value for name, value in environment.items()},
                stderr=file,
            )
        self.consumers.append(consumer)
        return consumer

    def send(self, values: Sequence[bytes | None], **options: Any) -> None:
        """Returns when Kafka has acknowledged every value."""
        producer = make_producer(self.kafka.settings, max_request_size=MAX_POST_BYTES)
        topic = self.kafka.settings.posts_topic
        futures = [
            producer.send(topic, key=str(self.sent + i).encode(), value=value, **options)
            for i, value in enumerate(values)
        ]
        for future in futures:
            future.get(timeout=60)
        producer.close()
        self.sent += len(values)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of one query on a connection of its own."""
        connection = connect(self.postgres.settings, "test")
        with transaction(connection, 30) as cursor:
            cursor.execute(sql)
            rows = cursor.fetchall()
        connection.close()
        return rows

    def ledger(self) -> dict[str, int]:
        """The sums of the ledger."""
        names = ("stored", "duplicates", "dead_lettered", "skipped")
        columns = ", ".join(f"coalesce(sum({name}), 0)::int" for name in names)
        return dict(zip(names, self.query(f"SELECT {columns} FROM kafka_offsets")[0], strict=True))  # noqa: S608 - names above

    def wait_for(self, records: int, seconds: float = 60) -> dict[str, int]:
        """The ledger once it accounts for so many records."""
        wait_until(
            lambda: sum(self.ledger().values()) >= records,
            seconds,
            f"a ledger of {records} records",
        )
        return self.ledger()

    def check(self) -> None:
        """Every record has one outcome, no row is missing, and the rollups equal a recount."""
        ledger = self.ledger()
        assert sum(ledger.values()) == self.sent
        assert self.query("SELECT count(*) FROM posts") == [(ledger["stored"],)]
        assert self.query("SELECT count(*) FROM dead_letters") == [(ledger["dead_lettered"],)]
        assert self.query("SELECT * FROM rollup_errors") == []

    def dead_letters(self) -> list[Any]:
        """Every record of the dead-letter Kafka topic."""
        consumer = make_consumer(self.kafka.settings, None)
        place = TopicPartition(self.kafka.settings.dead_letter_topic, 0)
        consumer.assign([place])
        end = consumer.end_offsets([place])[place]
        found: list[Any] = []
        while consumer.position(place) < end:
            for run in consumer.poll(timeout_ms=500).values():
                found.extend(run)
        consumer.close()
        return found


@pytest.fixture
def rig(
    kafka: KafkaHandle, postgres: PostgresHandle, predictor: Predictor, tmp_path: Path
) -> Iterator[Rig]:
    """Everything but a consumer runs."""
    rig = Rig(kafka, postgres, predictor, tmp_path)
    yield rig
    for consumer in rig.consumers:
        consumer.send_signal(signal.SIGCONT)
        consumer.kill()
        consumer.wait(30)


def post(number: int, text: str = "the train was late again", **changes: Any) -> bytes:
    fields = {
        "source": "replay",
        "id": f"{number:07d}",
        "text": text,
        "language": "en",
        "created_at": NOW,
        "topics": ("trains",) if number % 3 else ("trains", "food"),
    }
    return encode(Post(**fields | changes))


def posts(count: int, start: int = 0) -> list[bytes]:
    return [post(start + i) for i in range(count)]


def test_posts_are_scored_and_stored_with_the_models_name_and_version(rig: Rig) -> None:
    rig.send([post(1, "I love this, wonderful"), post(2, "I hate this, awful")])

    rig.start()
    rig.wait_for(2)

    rig.check()
    rows = rig.query("SELECT label, score, model_name, model_version FROM posts ORDER BY id")
    assert [row[0] for row in rows] == ["positive", "negative"]
    assert rows[0][1] > 0 > rows[1][1]
    assert {row[2:] for row in rows} == {("sentiment", rig.predictor.version)}


def test_a_post_in_another_language_is_stored_unscored(rig: Rig) -> None:
    rig.send([post(1, "quelle belle journée", language="fr")])

    rig.start()
    rig.wait_for(1)

    rig.check()
    assert rig.query("SELECT label, score, language FROM posts") == [(None, None, "fr")]


def test_exactly_the_bad_records_become_dead_letters_and_their_neighbours_are_stored(
    rig: Rig,
) -> None:
    poison: list[tuple[bytes | None, str]] = [
        (None, "tombstone"),
        (b"not json", "invalid_json"),
        (b"[" * 10_000, "invalid_json"),
        (post(1).replace(b"late", b"\xff"), "invalid_utf8"),
        (post(1).replace(b"late", b"\\ud800"), "invalid_json"),
        (post(1).replace(b"late", b"\\u0000"), "invalid_field"),
        (b'{"schema":1}', "missing_field"),
        (b'{"schema":9}', "unsupported_schema"),
        (post(1).replace(b"late", b"x" * 2 * 1024 * 1024), "too_large"),
    ]
    good = [post(i, f'tab\there, back\\slash, \\N, new\nline, quote" {i}') for i in range(100)]
    values: list[bytes | None] = [*good, *(value for value, _ in poison)]
    random.Random(7).shuffle(values)
    rig.send(values, headers=[("trace", b"\xfe")])

    rig.start()
    ledger = rig.wait_for(len(values))

    rig.check()
    assert ledger == {"stored": 100, "duplicates": 0, "dead_lettered": len(poison), "skipped": 0}
    reasons = sorted(row[0] for row in rig.query("SELECT reason FROM dead_letters"))
    assert reasons == sorted(reason for _, reason in poison)
    kept = rig.dead_letters()
    assert sorted(record.value or b"" for record in kept) == sorted(
        value or b"" for value, _ in poison
    )
    headers = dict(kept[0].headers)
    assert headers["trace"] == b"\xfe"
    assert headers["__connect.errors.topic"] == rig.kafka.settings.posts_topic.encode()
    texts = {row[0] for row in rig.query("SELECT text FROM posts")}
    assert 'tab\there, back\\slash, \\N, new\nline, quote" 42' in texts


def test_a_replayed_record_that_still_cannot_be_taken_in_is_a_new_dead_letter(rig: Rig) -> None:
    bad: list[bytes | None] = [b"not json", None, post(1).replace(b"late", b"x" * 2_000_000)]
    rig.send([*bad, post(2, language="fr")])
    rig.start()
    rig.wait_for(4)

    chosen = replay(rig.kafka.settings, "invalid_json", None)
    rig.wait_for(5)
    everything = replay(rig.kafka.settings, None, None)
    rig.sent += chosen.replayed + everything.replayed
    ledger = rig.wait_for(9)

    rig.check()
    assert (chosen.replayed, everything.replayed) == (1, 4)
    assert ledger == {"stored": 1, "duplicates": 0, "dead_lettered": 8, "skipped": 0}
    assert {record.value for record in rig.dead_letters()} == set(bad)


def test_a_replay_job_takes_its_reason_and_limit_from_the_environment(rig: Rig) -> None:
    rig.send([b"not json", None, b"nor this"])
    rig.start()
    rig.wait_for(3)

    job = subprocess.run(
        [sys.executable, "-m", "services.consumer.replay"],
        env=os.environ
        | {
            "MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS": rig.kafka.settings.bootstrap_servers,
            "MOODSTREAM_KAFKA_POSTS_TOPIC": rig.kafka.settings.posts_topic,
            "MOODSTREAM_KAFKA_DEAD_LETTER_TOPIC": rig.kafka.settings.dead_letter_topic,
            "MOODSTREAM_DEAD_LETTERS_REASON": "invalid_json",
            "MOODSTREAM_DEAD_LETTERS_LIMIT": "1",
        },
        stdout=subprocess.PIPE,
        check=True,
    )
    replayed = json.loads(job.stdout)["replayed"]
    rig.sent += replayed
    rig.wait_for(4)

    assert replayed == 1
    rig.check()


def test_a_replay_job_without_kafka_ends_with_one_line() -> None:
    job = subprocess.run(
        [sys.executable, "-m", "services.consumer.replay"],
        env=os.environ | {"MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"},
        capture_output=True,
        check=False,
        text=True,
    )

    last = job.stderr.splitlines()[-1]
    assert job.returncode == 1
    assert last.startswith("replay-dead-letters: the dead letters cannot be replayed now: ")
    assert "Traceback" not in job.stderr


def test_the_same_posts_again_add_no_rows_and_change_no_figures(rig: Rig) -> None:
    rig.send(posts(500))
    first = rig.start()
    rig.wait_for(500)
    first.terminate()
    assert first.wait(30) == 0
    before = rig.query("SELECT * FROM rollup_minute ORDER BY 1, 2, 3")

    rig.query("WITH gone AS (DELETE FROM kafka_offsets RETURNING 1) SELECT count(*) FROM gone")
    rig.start()
    ledger = rig.wait_for(500)

    assert ledger == {"stored": 0, "duplicates": 500, "dead_lettered": 0, "skipped": 0}
    assert rig.query("SELECT * FROM rollup_minute ORDER BY 1, 2, 3") == before


@pytest.mark.skipif(not HUMAN_RATED.exists(), reason="needs the 4,200 human-rated posts")
def test_every_one_of_4200_human_rated_posts_is_accounted_for(rig: Rig) -> None:
    with HUMAN_RATED.open(encoding="utf-8", newline="") as file:
        values = [post(int(row["id"]), row["text"]) for row in csv.DictReader(file)]
    rig.send(values)

    rig.start(CONSUMER_BATCH_RECORDS="2000")
    ledger = rig.wait_for(4_200)

    rig.check()
    assert ledger == {"stored": 4_200, "duplicates": 0, "dead_lettered": 0, "skipped": 0}


def test_sigterm_under_load_exits_cleanly_with_everything_it_stored_committed(rig: Rig) -> None:
    rig.send(posts(20_000))
    consumer = rig.start()
    rig.wait_for(2_000)

    consumer.terminate()

    assert consumer.wait(30) == 0
    reader = make_consumer(rig.kafka.settings, f"group-{rig.kafka.settings.posts_topic}")
    topic = rig.kafka.settings.posts_topic
    for partition, offset, end in rig.query(
        "SELECT kafka_partition, next_offset, end_offset FROM kafka_offsets"
    ):
        place = TopicPartition(topic, partition)
        assert (reader.committed(place) or 0) == offset
        assert end in {None, *reader.end_offsets([place]).values()}
        assert end is not None or offset == 0
    reader.close()
    rig.start()
    rig.wait_for(20_000)
    rig.check()


def test_a_running_consumer_reads_a_partition_that_is_added_within_seconds(rig: Rig) -> None:
    rig.send(posts(100))
    rig.start()
    rig.wait_for(100)
    admin = KafkaAdminClient(bootstrap_servers=rig.kafka.settings.bootstrap_servers)
    topic = rig.kafka.settings.posts_topic
    admin.create_partitions({topic: PARTITIONS + 1})
    wait_until(
        lambda: len(admin.describe_topics([topic])[0]["partitions"]) > PARTITIONS,
        30,
        "the partition",
    )
    admin.close()

    rig.send(posts(100), partition=PARTITIONS)

    rig.wait_for(200, seconds=60)  # left alone, kafka-python looks every five minutes
    rig.check()


def test_kill_9_at_ten_random_moments_loses_nothing_and_stores_nothing_twice(rig: Rig) -> None:
    rig.send(posts(20_000))
    moments = random.Random(20261122)

    for _ in range(10):
        consumer = rig.start()
        seen = sum(rig.ledger().values())
        rig.wait_for(min(seen + moments.randrange(1, 1_500), 20_000))
        consumer.kill()
        consumer.wait(30)
    rig.start()
    rig.wait_for(20_000)

    rig.check()
    assert rig.ledger()["stored"] == 20_000


def test_a_database_restart_in_the_middle_of_a_batch_loses_nothing(rig: Rig) -> None:
    rig.send(posts(15_000))
    rig.start()
    rig.wait_for(3_000)

    rig.postgres.kill()
    rig.postgres.start()
    rig.wait_for(8_000)
    rig.postgres.restart()

    rig.wait_for(15_000)
    rig.check()
    assert rig.ledger()["stored"] == 15_000


def test_a_kafka_restart_in_the_middle_of_a_batch_loses_nothing(rig: Rig) -> None:
    rig.send(posts(15_000))
    consumer = rig.start()
    rig.wait_for(3_000)

    rig.kafka.kill()
    rig.kafka.start()

    rig.wait_for(15_000, 120)
    rig.check()
    assert consumer.poll() is None


def test_consumers_that_come_and_go_share_the_work_exactly_once(rig: Rig) -> None:
    rig.send(posts(20_000))
    first = rig.start()
    rig.wait_for(2_000)

    rig.start()
    third = rig.start()
    rig.wait_for(8_000)
    first.terminate()
    third.kill()

    rig.wait_for(20_000)
    rig.check()
    assert first.wait(30) == 0


def test_a_consumer_that_wakes_after_its_partitions_were_given_away_changes_nothing(
    rig: Rig,
) -> None:
    rig.send(posts(20_000))
    zombie = rig.start()
    rig.wait_for(2_000)

    zombie.send_signal(signal.SIGSTOP)
    rig.start()
    rig.wait_for(12_000, 90)
    zombie.send_signal(signal.SIGCONT)

    rig.wait_for(20_000)
    rig.send(posts(2_000, 20_000))
    rig.wait_for(22_000)
    rig.check()
    assert zombie.poll() is None


def test_while_the_predictor_is_away_the_consumer_waits_and_blames_no_record(rig: Rig) -> None:
    rig.send(posts(3_000))
    consumer = rig.start()
    rig.wait_for(500)

    rig.predictor.stop()
    try:
        rig.send(posts(1_000, 3_000))
    finally:
        rig.predictor.start()

    rig.wait_for(4_000)
    rig.check()
    assert rig.ledger()["dead_lettered"] == 0
    assert consumer.poll() is None


def test_a_consumer_that_starts_before_kafka_waits_for_it_and_still_stops_at_once(rig: Rig) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    port = free_port()

    consumer = rig.start(KAFKA_BOOTSTRAP_SERVERS=nowhere, SERVICE_PORT=str(port))
    wait_until(lambda: status(f"http://127.0.0.1:{port}/readyz") == 503, 30, "a waiting consumer")
    assert status(f"http://127.0.0.1:{port}/livez") == 200
    consumer.terminate()

    assert consumer.wait(15) == 0


def test_posts_that_kafka_deleted_unread_are_entered_as_skipped(rig: Rig) -> None:
    rig.send(posts(400))
    first = rig.start()
    rig.wait_for(400)
    first.terminate()
    first.wait(30)
    rig.send(posts(400, 400))
    topic = rig.kafka.settings.posts_topic
    admin = KafkaAdminClient(bootstrap_servers=rig.kafka.settings.bootstrap_servers)
    reader = make_consumer(rig.kafka.settings, None)
    ends = reader.end_offsets([TopicPartition(topic, n) for n in range(4)])
    admin.delete_records(ends)
    admin.close()
    reader.close()

    rig.start()
    ledger = rig.wait_for(800)

    assert ledger == {"stored": 400, "duplicates": 0, "dead_lettered": 0, "skipped": 400}
