"""The consumer: reads posts, has them scored, stores the result exactly once."""

from threading import Event

from services.consumer.pipeline import Pipeline
from services.consumer.settings import ConsumerSettings
from services.core import lifecycle
from services.core.health import HealthServer
from services.core.inference import InferenceClient
from services.core.settings import (
    InferenceSettings,
    KafkaSettings,
    PostgresSettings,
    ServiceSettings,
    load,
)


def main() -> None:
    """Runs until SIGTERM."""
    lifecycle.run("consumer", _run)


def _run(service: ServiceSettings, stop: Event) -> None:
    pipeline = Pipeline(
        load(KafkaSettings),
        load(PostgresSettings),
        load(ConsumerSettings),
        InferenceClient(load(InferenceSettings)),
    )
    with HealthServer(service.bind, service.port, alive=pipeline.problem, ready=pipeline.unready):
        pipeline.run(stop, service.drain_seconds)
