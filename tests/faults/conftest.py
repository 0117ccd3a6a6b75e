"""The real parts of the integration tests, and a scene on them for each fault."""

import gc
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.scene import Record, Scene
from tests.integration.conftest import (  # noqa: F401 - fixtures
    KafkaHandle,
    PostgresHandle,
    Predictor,
    kafka,
    kafka_server,
    platform_home,
    postgres,
    postgres_server,
    predictor,
)


def pytest_configure(config: pytest.Config) -> None:
    """The rows of the fault table are marked."""
    config.addinivalue_line(
        "markers", "fault(row, name, expected): the row of the fault table that a test proves"
    )
    # kafka-python leaves the sockets of connections that a broker's death ended to the collector.
    config.addinivalue_line(
        "filterwarnings",
        "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning",
    )


@pytest.fixture(autouse=True)
def no_sockets_left() -> Iterator[None]:
    """They are collected here, where the filter above holds, and not at the session's end."""
    yield
    gc.collect()


@pytest.fixture
def seed(record_property: Record) -> int:
    """What the choices of a test come from; FAULTS_SEED repeats them."""
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(2**32))
    sys.stdout.write(f"seed {seed}\n")
    record_property("seed", seed)
    return seed


@pytest.fixture
def scene(
    kafka: KafkaHandle,  # noqa: F811 - as pytest wants it
    postgres: PostgresHandle,  # noqa: F811
    predictor: Predictor,  # noqa: F811
    tmp_path: Path,
    record_property: Record,
) -> Iterator[Scene]:
    """Everything but a consumer and a load runs."""
    scene = Scene(kafka, postgres, predictor, tmp_path, record_property)
    yield scene
    scene.close()
