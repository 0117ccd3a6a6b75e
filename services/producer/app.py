"""The producer: one source's posts to Kafka, until the source ends or SIGTERM."""

import logging
import secrets
import time
from functools import partial
from threading import Event

from services.core import lifecycle
from services.core.health import HealthServer, Progress
from services.core.settings import KafkaSettings, ServiceSettings, load
from services.producer.metrics import totals
from services.producer.publish import Publisher, patient_producer
from services.producer.settings import (
    BlueskySettings,
    ProducerSettings,
    ReplaySettings,
    XSettings,
)
from services.producer.sources import AuthorHash, Source, TopicMatcher
from services.producer.sources.bluesky import Bluesky
from services.producer.sources.replay import Replay
from services.producer.sources.x import X

log = logging.getLogger(__name__)

_STUCK_SECONDS = 60.0
_AUTHOR_KEY_BYTES = 32


def main() -> None:
    """Runs until the source ends or SIGTERM."""
    lifecycle.run("producer", _run)


def _run(service: ServiceSettings, stop: Event) -> None:
    settings, kafka = load(ProducerSettings), load(KafkaSettings)
    source = _source(settings)
    patience = Patience(stop, service.drain_seconds)
    publisher = Publisher(
        partial(patient_producer, kafka),
        kafka.posts_topic,
        settings.max_in_flight,
        acknowledged=source.acknowledged,
        patient=patience.until_drained,
    )
    with HealthServer(
        service.bind,
        service.port,
        alive=patience.progress.problem,
        ready=lambda: publisher.unready() or source.unready(),
    ):
        try:
            publish_all(source, publisher, patience)
        finally:
            count = totals()
            outcomes = ("published", "refused", "failed", "dropped")
            log.info("producer.finished", extra={name: count[name] for name in outcomes})


class Patience:
    """How long to wait: without limit while running, until the deadline after a stop. Each
    question is a sign of life.
    """

    def __init__(self, stop: Event, drain_seconds: float) -> None:
        self.progress = Progress(_STUCK_SECONDS)
        self._stop = stop
        self._drain_seconds = drain_seconds
        self._deadline: float | None = None

    def until_stopped(self) -> bool:
        """Whether no stop was asked for."""
        self.progress.beat()
        return not self._stop.is_set()

    def until_drained(self) -> bool:
        """Whether what is in flight may still be waited for."""
        if self.until_stopped():
            return True
        if self._deadline is None:
            self._deadline = time.monotonic() + self._drain_seconds
        return time.monotonic() < self._deadline


def publish_all(source: Source, publisher: Publisher, patience: Patience) -> None:
    """Everything that the source gives, each post acknowledged or counted at the end."""

    def running() -> bool:
        publisher.settle()
        return patience.until_stopped()

    try:
        if publisher.connect():
            for post in source.posts(running):
                publisher.publish(post)
    finally:
        publisher.finish()


def _source(settings: ProducerSettings) -> Source:
    topics = TopicMatcher(settings.topics)
    if settings.author_key is None:
        log.warning("author_key.unset", extra={"effect": "author hashes change at each start"})
        key = secrets.token_bytes(_AUTHOR_KEY_BYTES)
    else:
        key = settings.author_key.get_secret_value().encode()
    author = AuthorHash(key)
    match settings.source:
        case "x":
            return X(load(XSettings), topics, author, settings.state_dir, settings.max_in_flight)
        case "bluesky":
            return Bluesky(
                load(BlueskySettings), topics, author, settings.state_dir, settings.max_in_flight
            )
        case "replay":
            return Replay(load(ReplaySettings), topics, author)
