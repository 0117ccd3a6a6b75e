"""Real Kafka, PostgreSQL and MLflow for the integration tests: one of each per session, started by
the code that the demo uses.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest

from services.core.errors import TemporaryError
from services.core.kafka import ensure_topics
from services.core.postgres import connect
from services.core.settings import KafkaSettings, PostgresSettings
from services.core.warehouse import upgrade
from services.local.kafka import Kafka
from services.local.mlflow import MLflow
from services.local.postgres import Postgres
from services.local.process import PartError, Process
from tests.integration.predictor import Predictor
from tests.missing import missing
from tests.ports import free_port

PARTITIONS = 4


class KafkaHandle:
    """A Kafka for one test: topics of its own on the session's broker, and that broker's faults."""

    def __init__(self, server: Kafka, settings: KafkaSettings) -> None:
        self.settings = settings
        self._server = server

    @property
    def process(self) -> Process:
        """The broker's process."""
        return self._server.process

    def kill(self) -> None:
        """SIGKILL; `start` brings it back with its data."""
        self.process.kill()

    def stop(self) -> None:
        """An orderly stop; `start` brings it back."""
        self.process.stop()

    def start(self) -> None:
        """Returns when clients are served again."""
        self._server.start()

    def restart(self) -> None:
        """An orderly stop and a start."""
        self.stop()
        self.start()


class PostgresHandle:
    """A migrated, empty warehouse for one test, and the faults of the session's server."""

    def __init__(self, server: Postgres, settings: PostgresSettings) -> None:
        self.settings = settings
        self._server = server

    @property
    def process(self) -> Process:
        """The server's process."""
        return self._server.process

    def kill(self) -> None:
        """SIGKILL to the server and every backend; `start` recovers from the write-ahead log."""
        self.process.kill()

    def stop(self) -> None:
        """A fast shutdown; `start` brings it back."""
        self.process.stop()

    def start(self) -> None:
        """Returns when connections are accepted again."""
        self._server.start()

    def restart(self) -> None:
        """A fast shutdown, which breaks every connection, and a start."""
        self.stop()
        self.start()


@pytest.fixture(scope="session")
def platform_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's servers keep their data and logs."""
    return tmp_path_factory.mktemp("platform")


@pytest.fixture(scope="session")
def kafka_server(platform_home: Path) -> Iterator[Kafka]:
    """The session's broker."""
    server = Kafka(platform_home, free_port(), free_port())
    yield from _running(server, "Kafka")


@pytest.fixture(scope="session")
def postgres_server(platform_home: Path) -> Iterator[Postgres]:
    """The session's PostgreSQL."""
    server = Postgres(platform_home, free_port())
    yield from _running(server, "PostgreSQL")


@pytest.fixture(scope="session")
def mlflow_url(platform_home: Path, postgres_server: Postgres) -> Iterator[str]:
    """Address of the session's MLflow, on the session's PostgreSQL."""
    server = MLflow(platform_home, free_port(), postgres_server.settings_of("mlflow"))
    for running in _running(server, "MLflow"):
        yield running.url


Server = TypeVar("Server", Kafka, Postgres, MLflow)


def _running(server: Server, name: str) -> Iterator[Server]:
    try:
        server.start()
    except PartError as exc:
        missing(f"{name} does not start here: {exc}")
    yield server
    server.process.stop()


@pytest.fixture
def kafka(kafka_server: Kafka) -> KafkaHandle:
    """A broker with empty topics of the test's own."""
    suffix = uuid4().hex[:8]
    settings = kafka_server.settings.model_copy(
        update={"posts_topic": f"posts-{suffix}", "dead_letter_topic": f"dead-letter-{suffix}"}
    )
    ensure_topics(settings, PARTITIONS)
    return KafkaHandle(kafka_server, settings)


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[PostgresHandle]:
    """A migrated, empty warehouse of the test's own."""
    database = f"test_{uuid4().hex[:8]}"
    postgres_server.create_database(database)
    settings = postgres_server.settings_of(database)
    upgrade(settings)
    yield PostgresHandle(postgres_server, settings)
    # Hundreds of files, which a server that stops would write one by one.
    with contextlib.suppress(TemporaryError):  # A test that failed may have left it stopped.
        connection = connect(postgres_server.settings_of("postgres", "postgres"), "test")
        connection.autocommit = True
        connection.cursor().execute(f'DROP DATABASE "{database}" WITH (FORCE)')
        connection.close()


@pytest.fixture(scope="session")
def predictor(platform_home: Path) -> Iterator[Predictor]:
    """The session's predictor."""
    server = Predictor(platform_home, free_port(), free_port())
    server.start()
    yield server
    server.stop()
