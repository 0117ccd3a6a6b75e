"""Typed settings, read from the environment once, at the start of a process.

Only a service's `main` calls `load`; everything below is handed the result. Each group has one
prefix, each field a docstring with unit and effect. A secret may also be a file: with
MOODSTREAM_SECRETS_DIR=/run/secrets, the file `/run/secrets/moodstream_postgres_password` stands for
the variable of that name.
"""

import os
from pathlib import Path
from typing import TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.core.errors import SettingsError

_SECRETS_DIR_VARIABLE = "MOODSTREAM_SECRETS_DIR"


def group(prefix: str) -> SettingsConfigDict:
    """The configuration of one settings group: frozen, documented by docstrings, read under
    `prefix`.
    """
    return SettingsConfigDict(env_prefix=prefix, frozen=True, use_attribute_docstrings=True)


class KafkaSettings(BaseSettings):
    """Where Kafka is, who we are there, and the names of our Kafka topics."""

    model_config = group("MOODSTREAM_KAFKA_")

    bootstrap_servers: str = "localhost:9092"
    """Comma-separated host:port list of brokers."""
    posts_topic: str = "posts"
    """Kafka topic that producers write and consumers read."""
    dead_letter_topic: str = "posts.dead-letter"
    """Kafka topic for records that can never be stored or scored."""
    username: str | None = None
    """SCRAM-SHA-512 user. Unset: no authentication."""
    password: SecretStr | None = None
    """SCRAM-SHA-512 password."""
    ca_file: Path | None = None
    """PEM file of the authority that signed the brokers' certificates. Set: TLS. Unset:
    plaintext.
    """


class PostgresSettings(BaseSettings):
    """Where the warehouse is."""

    model_config = group("MOODSTREAM_POSTGRES_")

    host: str = "localhost"
    """Host name or address."""
    port: int = Field(default=5432, ge=1, le=65535)
    """TCP port."""
    database: str = "moodstream"
    """Database name."""
    user: str = "moodstream"
    """Role to connect as."""
    password: SecretStr | None = None
    """Password of the role. Unset: what the server allows without one."""
    sslmode: str = "prefer"
    """libpq's sslmode: disable, prefer, require, verify-ca or verify-full."""


class InferenceSettings(BaseSettings):
    """Where the model is served, over the Open Inference Protocol (V2)."""

    model_config = group("MOODSTREAM_INFERENCE_")

    url: str = "http://localhost:8080"
    """Base address of the predictor, without a path."""
    model_name: str = "sentiment"
    """Name of the served model; also its registered name in MLflow."""
    timeout_seconds: float = Field(default=30.0, gt=0)
    """Deadline of one request, connect and answer together."""


class ChallengerSettings(BaseSettings):
    """Where the challenger is served, beside the champion."""

    model_config = group("MOODSTREAM_CHALLENGER_")

    url: str | None = None
    """Base address of the challenger's predictor, without a path. Unset: there is none."""


class MLflowSettings(BaseSettings):
    """Where the experiments and the model registry are."""

    model_config = group("MOODSTREAM_MLFLOW_")

    url: str = "http://localhost:5000"
    """Base address of the MLflow server."""


class ServiceSettings(BaseSettings):
    """What every service needs of its surroundings."""

    model_config = group("MOODSTREAM_SERVICE_")

    bind: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from outside the pod
    """Address that /livez, /readyz and /metrics listen on."""
    port: int = Field(default=9000, ge=0, le=65535)
    """TCP port of /livez, /readyz and /metrics; 0 takes a free one."""
    drain_seconds: float = Field(default=20.0, gt=0)
    """How long a stop may take to finish what is in flight; keep it below the pod's grace
    period.
    """
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """DEBUG, INFO, WARNING or ERROR."""


S = TypeVar("S", bound=BaseSettings)


def load(settings_class: type[S]) -> S:
    """Reads one group from the environment, or raises SettingsError naming each wrong variable."""
    secrets = os.environ.get(_SECRETS_DIR_VARIABLE)
    try:
        return settings_class(_secrets_dir=secrets)
    except ValidationError as exc:
        prefix = settings_class.model_config.get("env_prefix", "")
        problems = [
            f"{prefix}{'_'.join(str(part) for part in error['loc'])}".upper() + f": {error['msg']}"
            for error in exc.errors()
        ]
        raise SettingsError("wrong settings: " + "; ".join(problems)) from exc
