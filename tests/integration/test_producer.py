"""The producer as a process, against a real broker and its faults."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import TopicPartition

from services.core.kafka import make_consumer
from services.core.settings import KafkaSettings
from tests.integration.conftest import KafkaHandle
from tests.ports import free_port
from tests.waiting import wait_until

ROWS = 20_000
DEADLINE_SECONDS = 90.0


class Producer:
    """`python -m services.producer` with a log that can be read while it runs."""

    def __init__(self, folder: Path, kafka: KafkaSettings, **variables: str) -> None:
        self.port = free_port()
        self._log = folder / "producer.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.producer"],
                stderr=log,
                env=os.environ
                | {
                    "MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
                    "MOODSTREAM_KAFKA_POSTS_TOPIC": kafka.posts_topic,
                    "MOODSTREAM_SERVICE_BIND": "127.0.0.1",
                    "MOODSTREAM_SERVICE_PORT": str(self.port),
                    "MOODSTREAM_PRODUCER_STATE_DIR": str(folder / "state"),
                    **variables,
                },
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; 0 while nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()
        except OSError:
            return 0, ""

    def published(self) -> float:
        """By its own metric."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith('moodstream_producer_posts_total{outcome="published"'):
                return float(line.split()[-1])
        return 0.0

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> tuple[int, dict[str, int]]:
        """Exit status, and the account in the last log line."""
        status = self._process.wait(DEADLINE_SECONDS)
        events = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        finished = [event for event in events if event["event"] == "producer.finished"]
        names = ("published", "refused", "failed", "dropped")
        return status, {name: finished[-1][name] for name in names} if finished else {}

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


Start = Callable[..., Producer]


@pytest.fixture(name="start")
def _start(tmp_path: Path) -> Iterator[Start]:
    running: list[Producer] = []

    def start(kafka: KafkaSettings, **variables: str) -> Producer:
        running.append(Producer(tmp_path, kafka, **variables))
        return running[-1]

    yield start
    for producer in running:
        producer.end()


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    path = tmp_path / "posts.csv"
    rows = "".join(f"{number},the weather is fine today\n" for number in range(ROWS))
    path.write_text("id,text\n" + rows)
    return path


def keys_in(settings: KafkaSettings) -> Counter[bytes]:
    """The key of every record in the Kafka topic."""
    consumer = make_consumer(settings, None)
    try:
        numbers = consumer.partitions_for_topic(settings.posts_topic) or ()
        partitions = [TopicPartition(settings.posts_topic, number) for number in numbers]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        found: Counter[bytes] = Counter()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            assert time.monotonic() < deadline, "the Kafka topic cannot be read to its end"
            for records in consumer.poll(timeout_ms=200, max_records=10_000).values():
                found.update(record.key for record in records)
        return found
    finally:
        consumer.close()


def all_rows() -> Counter[bytes]:
    return Counter(f"replay/{number}".encode() for number in range(ROWS))


def test_a_file_is_in_kafka_when_the_producer_has_ended(
    kafka: KafkaHandle, start: Start, file: Path
) -> None:
    producer = start(kafka.settings, MOODSTREAM_REPLAY_PATH=str(file))

    status, account = producer.wait()

    assert (status, account) == (
        0,
        {"published": ROWS, "refused": 0, "failed": 0, "dropped": 0},
    )
    assert keys_in(kafka.settings) == all_rows()


def test_sigterm_ends_a_slow_replay_with_everything_sent_acknowledged(
    kafka: KafkaHandle, start: Start, file: Path
) -> None:
    producer = start(kafka.settings, MOODSTREAM_REPLAY_PATH=str(file), MOODSTREAM_REPLAY_RATE="200")
    wait_until(lambda: producer.published() > 20, DEADLINE_SECONDS)
    healthy = producer.get("/livez"), producer.get("/readyz")

    producer.signal(signal.SIGTERM)
    status, account = producer.wait()

    assert healthy == ((200, "ok\n"), (200, "ok\n"))
    assert (status, account["failed"]) == (0, 0)
    assert keys_in(kafka.settings).total() == account["published"] < ROWS


def test_a_broker_that_dies_and_comes_back_costs_a_file_nothing(
    kafka: KafkaHandle, start: Start, file: Path
) -> None:
    producer = start(
        kafka.settings,
        MOODSTREAM_REPLAY_PATH=str(file),
        MOODSTREAM_REPLAY_RATE="2000",
        MOODSTREAM_PRODUCER_MAX_IN_FLIGHT="1000",
    )
    wait_until(lambda: producer.published() > 500, DEADLINE_SECONDS)

    kafka.kill()
    wait_until(lambda: producer.get("/readyz")[0] == 503, DEADLINE_SECONDS)
    alive, reason = producer.get("/livez")[0], producer.get("/readyz")[1]
    kafka.start()
    status, account = producer.wait()

    assert alive == 200
    assert "Kafka has acknowledged nothing" in reason
    assert (status, account) == (
        0,
        {"published": ROWS, "refused": 0, "failed": 0, "dropped": 0},
    )
    assert keys_in(kafka.settings).keys() == all_rows().keys()


def test_a_stop_while_kafka_is_away_ends_in_time_and_counts_what_was_not_acknowledged(
    kafka: KafkaHandle, start: Start, file: Path
) -> None:
    producer = start(
        kafka.settings,
        MOODSTREAM_REPLAY_PATH=str(file),
        MOODSTREAM_REPLAY_RATE="1000",
        MOODSTREAM_PRODUCER_MAX_IN_FLIGHT="500",
        MOODSTREAM_SERVICE_DRAIN_SECONDS="1",
    )
    wait_until(lambda: producer.published() > 100, DEADLINE_SECONDS)
    kafka.kill()
    wait_until(lambda: producer.get("/readyz")[0] == 503, DEADLINE_SECONDS)
    before = time.monotonic()

    producer.signal(signal.SIGTERM)
    status, account = producer.wait()
    seconds = time.monotonic() - before
    kafka.start()

    assert status == 0
    assert 0 < account["failed"] <= 501
    assert seconds < 15  # with the default it would drain for 20
    assert keys_in(kafka.settings).total() >= account["published"]


def test_wrong_settings_end_the_start_with_the_variables_name(
    kafka: KafkaHandle, start: Start, tmp_path: Path
) -> None:
    producer = start(kafka.settings, MOODSTREAM_REPLAY_PATH=str(tmp_path / "absent.csv"))

    status, _ = producer.wait()

    assert status == 2
    assert "MOODSTREAM_REPLAY_PATH: cannot read" in producer.log
