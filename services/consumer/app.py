"""The consumer: reads posts, has them scored, stores the result exactly once."""

from contextlib import nullcontext
from threading import Event

from services.consumer import shadow
from services.consumer.pipeline import Pipeline
from services.consumer.settings import ConsumerSettings
from services.core import lifecycle
from services.core.health import HealthServer
from services.core.inference import InferenceClient
from services.core.settings import (
    ChallengerSettings,
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
    settings, postgres = load(ConsumerSettings), load(PostgresSettings)
    inference = load(InferenceSettings)
    beside = shadow.open_shadow(
        inference, load(ChallengerSettings), postgres, settings.shadow_share
    )
    pipeline = Pipeline(load(KafkaSettings), postgres, settings, InferenceClient(inference), beside)
    with (
        beside or nullcontext(),
        HealthServer(service.bind, service.port, alive=pipeline.problem, ready=pipeline.unready),
    ):
        pipeline.run(stop, service.drain_seconds)
