"""Where the local platform keeps its state and which ports its parts listen on."""

from pathlib import Path
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings

from services.core.errors import MoodstreamError
from services.core.settings import group
from services.local.net import is_free

_PREFIX: Final = "MOODSTREAM_LOCAL_"


class LocalSettings(BaseSettings):
    """The local platform: state folder and TCP ports, all on 127.0.0.1."""

    model_config = group(_PREFIX)

    home: Path = Path(".moodstream")
    """Folder for data, logs and secrets of the local platform."""
    kafka_port: int = Field(default=19092, ge=1, le=65535)
    """Kafka for clients."""
    kafka_controller_port: int = Field(default=19093, ge=1, le=65535)
    """Kafka's controller, used by Kafka alone."""
    postgres_port: int = Field(default=15432, ge=1, le=65535)
    """PostgreSQL."""
    mlflow_port: int = Field(default=15000, ge=1, le=65535)
    """MLflow: web page, tracking and registry."""
    predictor_port: int = Field(default=18080, ge=1, le=65535)
    """Predictor, REST."""
    predictor_grpc_port: int = Field(default=18081, ge=1, le=65535)
    """Predictor, gRPC."""
    challenger_port: int = Field(default=18082, ge=1, le=65535)
    """The challenger's predictor, REST; nothing listens while no version is the challenger."""
    challenger_grpc_port: int = Field(default=18083, ge=1, le=65535)
    """The challenger's predictor, gRPC."""
    examiner_port: int = Field(default=18090, ge=1, le=65535)
    """Examiner, used by the promoter alone."""
    dashboard_port: int = Field(default=18000, ge=1, le=65535)
    """Dashboard: web page and its JSON."""
    producer_port: int = Field(default=18100, ge=1, le=65535)
    """Health and metrics of the producer."""
    notifier_port: int = Field(default=18110, ge=1, le=65535)
    """Health and metrics of the notifier."""
    consumer_port: int = Field(default=18200, ge=1, le=65000)
    """Health and metrics of the first consumer; each further one takes the next port."""


class PortInUseError(MoodstreamError):
    """A port that a part needs is taken."""


def check_ports(settings: LocalSettings, consumers: int) -> None:
    """Raises PortInUseError naming every taken port, whose it should be, and how to change it."""
    wanted = {
        name: getattr(settings, name)
        for name in LocalSettings.model_fields
        if name.endswith("_port")
    } | {f"consumer_port (+{n})": settings.consumer_port + n for n in range(1, consumers)}
    values = list(wanted.values())
    taken = [
        f"port {port} for {name.split('_port')[0].replace('_', ' ')} "
        f"(set {_PREFIX}{name.split(' ')[0].upper()} to another)"
        for name, port in wanted.items()
        if not is_free(port) or values.count(port) > 1
    ]
    if taken:
        raise PortInUseError(f"already in use: {'; '.join(taken)}")
