"""The project's own services as local processes: the commands that a cluster would run in pods,
with local addresses.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from services.core.errors import SettingsError
from services.core.settings import (
    ChallengerSettings,
    InferenceSettings,
    KafkaSettings,
    PostgresSettings,
    load,
)
from services.local.net import ADDRESS
from services.local.process import Command
from services.local.settings import LocalSettings
from services.producer.settings import XSettings

_DRAIN_SECONDS: Final = 10.0
_STOP_SECONDS: Final = _DRAIN_SECONDS + 5.0
SAMPLE: Final = Path(__file__).parents[2] / "training" / "sample" / "posts.csv"
"""The project's own labelled posts: the default stream and the first training set."""


@dataclass(frozen=True)
class Stream:
    """What the producer is to publish."""

    source: str
    topics: str | None
    """Comma-separated; None: the source's own default."""
    rate: float
    """Posts per second; 0: as fast as it goes."""
    data: Path | None
    """A file, replayed once. None: the project's sample, in a loop."""


def check_stream(stream: Stream) -> None:
    """Raises SettingsError before anything starts when the source lacks what only a person has."""
    if stream.source == "x":
        load(XSettings)
        if not stream.topics:
            raise SettingsError(
                "X streams only what it is asked for: name topics (TOPICS, --topics)"
            )


@dataclass(frozen=True)
class Addresses:
    """Where everything that the services need is."""

    kafka: KafkaSettings
    postgres: PostgresSettings
    inference: InferenceSettings
    challenger: ChallengerSettings

    def public(self) -> dict[str, str]:
        """As environment variables, without secrets."""
        return {
            "MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "MOODSTREAM_POSTGRES_HOST": self.postgres.host,
            "MOODSTREAM_POSTGRES_PORT": str(self.postgres.port),
            "MOODSTREAM_POSTGRES_DATABASE": self.postgres.database,
            "MOODSTREAM_POSTGRES_USER": self.postgres.user,
            "MOODSTREAM_POSTGRES_SSLMODE": self.postgres.sslmode,
            "MOODSTREAM_INFERENCE_URL": self.inference.url,
            "MOODSTREAM_CHALLENGER_URL": self.challenger.url or "",
        }

    def environment(self) -> dict[str, str]:
        """As environment variables."""
        password = self.postgres.password
        secret = password.get_secret_value() if password else ""
        return self.public() | {"MOODSTREAM_POSTGRES_PASSWORD": secret}


def predictor(
    name: str, folder: Path, version: str, grpc_port: int, sockets: tuple[int, ...]
) -> Command:
    """Serves one version of the model on listening sockets of ours, given by file descriptor."""
    command = _service(
        name,
        0,
        {
            "MOODSTREAM_PREDICTOR_MODEL_DIR": str(folder),
            "MOODSTREAM_PREDICTOR_MODEL_VERSION": version,
            "MOODSTREAM_PREDICTOR_GRPC_PORT": str(grpc_port),
            "MOODSTREAM_PREDICTOR_SOCKET_FDS": json.dumps(sockets),
        },
        program="services.predictor",
    )
    return replace(command, inherited_fds=sockets)


def examiner(settings: LocalSettings, models: Path) -> Command:
    """Looks at versions, each in a folder of `models`, before they are served."""
    return _service(
        "examiner",
        0,
        {
            "MOODSTREAM_EXAMINER_BIND": ADDRESS,
            "MOODSTREAM_EXAMINER_PORT": str(settings.examiner_port),
            "MOODSTREAM_EXAMINER_MODELS_DIR": str(models),
        },
        program="services.predictor.examiner",
    )


def dashboard(settings: LocalSettings, addresses: Addresses) -> Command:
    """The web page."""
    return _service("dashboard", settings.dashboard_port, addresses.environment())


def notifier(settings: LocalSettings, addresses: Addresses) -> Command:
    """Watches the rules and tells people; its channels are in the home folder's channels.yaml."""
    environment = addresses.environment()
    channels = settings.home / "channels.yaml"
    if channels.is_file():
        environment["MOODSTREAM_NOTIFIER_CHANNELS"] = str(channels)
    return _service("notifier", settings.notifier_port, environment)


def consumer(settings: LocalSettings, addresses: Addresses, number: int) -> Command:
    """One of several consumers, counted from 0."""
    name = "consumer" if number == 0 else f"consumer-{number + 1}"
    return _service(name, settings.consumer_port + number, addresses.environment())


def producer(settings: LocalSettings, addresses: Addresses, stream: Stream) -> Command:
    """Publishes until stopped or until its source ends."""
    environment = {
        "MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS": addresses.kafka.bootstrap_servers,
        "MOODSTREAM_PRODUCER_SOURCE": stream.source,
        "MOODSTREAM_PRODUCER_STATE_DIR": str(settings.home / "producer"),
        "MOODSTREAM_REPLAY_PATH": str(stream.data or SAMPLE),
        "MOODSTREAM_REPLAY_RATE": str(stream.rate),
        "MOODSTREAM_REPLAY_LOOP": str(stream.data is None).lower(),
    }
    if stream.topics is not None:
        environment["MOODSTREAM_PRODUCER_TOPICS"] = stream.topics
    return _service("producer", settings.producer_port, environment)


def _service(
    name: str, port: int, environment: Mapping[str, str], program: str | None = None
) -> Command:
    return Command(
        name,
        [sys.executable, "-m", program or f"services.{name.split('-')[0]}"],
        {
            "MOODSTREAM_SERVICE_BIND": ADDRESS,
            "MOODSTREAM_SERVICE_PORT": str(port),
            "MOODSTREAM_SERVICE_DRAIN_SECONDS": str(_DRAIN_SECONDS),
            **environment,
        },
        stop_seconds=_STOP_SECONDS,
    )
