"""The real parts that the benchmarks run on, as processes."""

import csv
import itertools
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
import skops.io
from threadpoolctl import threadpool_limits

from services.core import warehouse
from services.core.events import Post, encode
from services.core.kafka import ensure_topics, make_producer
from services.core.model import MODEL_FILE
from services.core.postgres import connect, transaction
from services.core.settings import KafkaSettings
from services.local.kafka import Kafka
from services.local.postgres import Postgres
from services.local.workloads import SAMPLE
from tests.ports import free_port
from training.candidates import BASELINE, CANDIDATES
from training.readers import read, read_all

PARTITIONS: Final = 6
_READY_SECONDS: Final = 90.0
HUMAN_RATED: Final = Path(__file__).parents[3] / "shared" / "data" / "human_rated_posts.csv"


def versions() -> dict[str, str]:
    """What versions.env names."""
    lines = (Path(__file__).parents[2] / "versions.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line[:1].isalpha())


def texts() -> list[str]:
    """Texts of ordinary length: the human-rated posts where they are, else the project's sample."""
    path = HUMAN_RATED if HUMAN_RATED.exists() else SAMPLE
    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def fit(train: Sequence[Path], test: Path | None, folder: Path) -> Path:
    """A folder as the registry gives it, with the baseline fitted on `train` less `test`."""
    data = read_all(train)
    data = data.without(read(test)) if test else data.unique()
    with threadpool_limits(1):
        pipeline = CANDIDATES[BASELINE]().fit(list(data.texts), list(data.labels))
    path = folder / MODEL_FILE
    path.parent.mkdir(parents=True)
    skops.io.dump(pipeline, path)
    return folder


@dataclass(frozen=True)
class Usage:
    """What some processes have used."""

    cpu_seconds: float
    memory_bytes: int
    """Of their own and their share of what they share."""


def _usage(pids: Sequence[int]) -> Usage:
    seconds, memory = 0.0, 0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            for process in (parent, *parent.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    seconds += times.user + times.system
                    memory += process.memory_full_info().pss
    return Usage(seconds, memory)


class Rig:
    """One Kafka and one PostgreSQL with empty topics and tables, and services on top of them."""

    def __init__(self, home: Path, model: Path) -> None:
        self._numbers = itertools.count()
        self.kafka = Kafka(home, free_port(), free_port())
        self.postgres = Postgres(home, free_port())
        self.kafka.start()
        self.postgres.start()
        warehouse.upgrade(self.postgres.settings)
        self.topic(PARTITIONS)
        self.home = home
        self._sent = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self.predictor_port, self.predictor_grpc_port = free_port(), free_port()
        self.predictor = self.service(
            "predictor",
            self.predictor_port,
            {
                "MOODSTREAM_PREDICTOR_MODEL_DIR": str(model),
                "MOODSTREAM_PREDICTOR_MODEL_VERSION": "1",
                "MOODSTREAM_PREDICTOR_HTTP_PORT": str(self.predictor_port),
                "MOODSTREAM_PREDICTOR_GRPC_PORT": str(self.predictor_grpc_port),
            },
            "/v2/health/ready",
        )

    def topic(self, partitions: int) -> KafkaSettings:
        """From here on everything uses a new Kafka topic with so many partitions."""
        name = f"posts-{next(self._numbers)}"
        self.kafka.settings = self.kafka.settings.model_copy(update={"posts_topic": name})
        ensure_topics(self.kafka.settings, partitions)
        return self.kafka.settings

    def service(
        self, name: str, port: int, settings: Mapping[str, str], ready: str | None = "/livez"
    ) -> subprocess.Popen[bytes]:
        """Starts one of the project's services, and returns when it answers."""
        password = self.postgres.settings.password
        environment = {
            "MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS": self.kafka.settings.bootstrap_servers,
            "MOODSTREAM_KAFKA_POSTS_TOPIC": self.kafka.settings.posts_topic,
            "MOODSTREAM_POSTGRES_HOST": self.postgres.settings.host,
            "MOODSTREAM_POSTGRES_PORT": str(self.postgres.settings.port),
            "MOODSTREAM_POSTGRES_PASSWORD": password.get_secret_value() if password else "",
            "MOODSTREAM_SERVICE_BIND": "127.0.0.1",
            "MOODSTREAM_SERVICE_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            **settings,
        }
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"services.{name}"],
                env=os.environ | environment,
                stderr=log,
                stdout=log,
            )
        self._processes.append(process)
        deadline = time.monotonic() + _READY_SECONDS
        while ready is not None and not _answers(f"http://127.0.0.1:{port}{ready}"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} did not start; see {self.home / f'{name}.log'}")
            time.sleep(0.05)
        return process

    def consumer(self, port: int, ready: str = "/livez") -> subprocess.Popen[bytes]:
        """Starts a consumer that asks the rig's predictor."""
        url = {"MOODSTREAM_INFERENCE_URL": f"http://127.0.0.1:{self.predictor_port}"}
        return self.service("consumer", port, url, ready)

    def fill(self, count: int, language: str = "en") -> None:
        """Puts so many new posts into Kafka."""
        producer = make_producer(self.kafka.settings)
        found, now = texts(), datetime.now(UTC)
        for i in range(count):
            post = Post(
                source="replay",
                id=f"{self._sent + i:012d}",
                text=found[i % len(found)],
                language=language,
                created_at=now,
                author=f"{i % 5000:032x}",
                topics=("trains",) if i % 4 else ("trains", "food"),
            )
            producer.send(self.kafka.settings.posts_topic, key=post.key, value=encode(post))
        producer.flush()
        producer.close()
        self._sent += count

    def ledger(self) -> int:
        """Records of the topic that are accounted for so far."""
        return int(
            self.query(
                "SELECT coalesce(sum(stored + duplicates + dead_lettered), 0) FROM kafka_offsets "  # noqa: S608 - our name
                f"WHERE kafka_topic = '{self.kafka.settings.posts_topic}'"
            )[0][0]
        )

    def usage(self) -> dict[str, Usage]:
        """What each part has used of the machine, with all of its processes."""
        parts = {
            "kafka": [self.kafka.process.pid],
            "postgres": [self.postgres.process.pid],
            "predictor": [self.predictor.pid],
            "consumer": [p.pid for p in self._processes if "services.consumer" in p.args],
        }
        return {name: _usage(pids) for name, pids in parts.items()}

    def disk(self) -> dict[str, int]:
        """Bytes that Kafka's and PostgreSQL's data take, the latter without its write-ahead log."""
        kafka = sum(
            path.stat().st_blocks * 512
            for path in (self.home / "kafka" / "data").rglob("*")
            if path.is_file()
        )
        return {
            "kafka": kafka,
            "postgres": int(self.query("SELECT pg_database_size(current_database())")[0][0]),
        }

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of one query."""
        connection = connect(self.postgres.settings, "bench")
        with transaction(connection, 60) as cursor:
            cursor.execute(sql)
            rows = cursor.fetchall()
        connection.close()
        return rows

    def execute(self, sql: str) -> None:
        """One statement that has no rows to give."""
        connection = connect(self.postgres.settings, "bench")
        with transaction(connection, 600) as cursor:
            cursor.execute(sql)
        connection.close()

    def close(self) -> None:
        """Stops everything."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(30)
        for server in (self.kafka, self.postgres):
            if server.process is not None:
                server.process.stop()


@contextmanager
def running(home: Path, model: Path) -> Iterator[Rig]:
    """A rig for the length of the block."""
    rig = Rig(home, model)
    try:
        yield rig
    finally:
        rig.close()


def metrics(port: int) -> dict[str, float]:
    """A service's metrics, by name with labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, value in (
            re.split(r" (?=[^ ]+$)", line) for line in lines if not line.startswith("#")
        )
    }


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return int(answer.status) == 200
    except OSError:
        return False
