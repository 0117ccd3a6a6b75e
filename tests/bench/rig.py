"""The real parts that the benchmarks run on, as processes."""

import csv
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import skops.io
from threadpoolctl import threadpool_limits

from services.core import warehouse
from services.core.events import Post, encode
from services.core.kafka import ensure_topics, make_producer
from services.core.model import MODEL_FILE
from services.core.postgres import connect, transaction
from services.local.kafka import Kafka
from services.local.postgres import Postgres
from services.local.workloads import SAMPLE
from tests.ports import free_port
from training.candidates import BASELINE, CANDIDATES
from training.readers import read, read_all

_PARTITIONS: Final = 6
_READY_SECONDS: Final = 90.0
HUMAN_RATED: Final = Path(__file__).parents[3] / "shared" / "data" / "human_rated_posts.csv"


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


class Rig:
    """One Kafka and one PostgreSQL with empty topics and tables, and services on top of them."""

    def __init__(self, home: Path, model: Path) -> None:
        self.kafka = Kafka(home, free_port(), free_port())
        self.postgres = Postgres(home, free_port())
        self.kafka.start()
        self.postgres.start()
        warehouse.upgrade(self.postgres.settings)
        ensure_topics(self.kafka.settings, _PARTITIONS)
        self._home = home
        self._sent = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self.predictor_port = free_port()
        self.predictor = self.service(
            "predictor",
            self.predictor_port,
            {
                "MOODSTREAM_PREDICTOR_MODEL_DIR": str(model),
                "MOODSTREAM_PREDICTOR_MODEL_VERSION": "1",
                "MOODSTREAM_PREDICTOR_HTTP_PORT": str(self.predictor_port),
                "MOODSTREAM_PREDICTOR_GRPC_PORT": str(free_port()),
            },
            "/v2/health/ready",
        )

    def service(
        self, name: str, port: int, settings: Mapping[str, str], ready: str | None = "/livez"
    ) -> subprocess.Popen[bytes]:
        """Starts one of the project's services, and returns when it answers."""
        password = self.postgres.settings.password
        environment = {
            "MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS": self.kafka.settings.bootstrap_servers,
            "MOODSTREAM_POSTGRES_HOST": self.postgres.settings.host,
            "MOODSTREAM_POSTGRES_PORT": str(self.postgres.settings.port),
            "MOODSTREAM_POSTGRES_PASSWORD": password.get_secret_value() if password else "",
            "MOODSTREAM_SERVICE_BIND": "127.0.0.1",
            "MOODSTREAM_SERVICE_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            **settings,
        }
        with (self._home / f"{name}.log").open("ab") as log:
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
                raise SystemExit(f"{name} did not start; see {self._home / f'{name}.log'}")
            time.sleep(0.05)
        return process

    def consumer(self, port: int, **settings: str) -> subprocess.Popen[bytes]:
        """Starts a consumer that asks the rig's predictor."""
        url = {"MOODSTREAM_INFERENCE_URL": f"http://127.0.0.1:{self.predictor_port}"}
        return self.service("consumer", port, url | settings)

    def fill(self, count: int) -> None:
        """Puts so many new posts into Kafka."""
        producer = make_producer(self.kafka.settings)
        found, now = texts(), datetime.now(UTC)
        for i in range(count):
            post = Post(
                source="replay",
                id=f"{self._sent + i:012d}",
                text=found[i % len(found)],
                language="en",
                created_at=now,
                author=f"{i % 5000:032x}",
                topics=("trains",) if i % 4 else ("trains", "food"),
            )
            producer.send(self.kafka.settings.posts_topic, key=post.key, value=encode(post))
        producer.flush()
        producer.close()
        self._sent += count

    def ledger(self) -> int:
        """Records accounted for so far."""
        return int(
            self.query(
                "SELECT coalesce(sum(stored + duplicates + dead_lettered), 0) FROM kafka_offsets"
            )[0][0]
        )

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of one query."""
        connection = connect(self.postgres.settings, "bench")
        with transaction(connection, 60) as cursor:
            cursor.execute(sql)
            rows = cursor.fetchall()
        connection.close()
        return rows

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
