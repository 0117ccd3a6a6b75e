"""Posts to Kafka: bounded in memory, nothing lost while the process lives, every outcome counted.

Futures are settled by the sending thread, oldest first: cheaper than a callback for each, and it
keeps the order that cursors need.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError
from kafka.future import Future

from services.core.errors import MoodstreamError
from services.core.events import Post, encode
from services.core.kafka import make_producer
from services.core.settings import KafkaSettings
from services.producer.metrics import IN_FLIGHT, POSTS

log = logging.getLogger(__name__)

_FOR_EVER_MILLISECONDS: Final = 2**31 - 1
"""The library would give up a record after two minutes of outage; a file can wait longer."""
_BLOCK_MILLISECONDS: Final = 1_000
_WAIT_SECONDS: Final = 0.1
_SILENCE_SECONDS: Final = 5.0
"""Unready when Kafka acknowledges nothing for so long."""
_CLOSE_SECONDS: Final = 2.0


class PublishError(MoodstreamError):
    """Kafka will not take posts from this process any more."""


def patient_producer(settings: KafkaSettings) -> Any:
    """A Kafka producer that never gives up a record. Raises KafkaTimeoutError when no broker
    answers.
    """
    return make_producer(
        settings,
        delivery_timeout_ms=_FOR_EVER_MILLISECONDS,
        max_block_ms=_BLOCK_MILLISECONDS,
    )


class Publisher:
    """Sends posts and settles what Kafka answers. Not thread-safe, except for `unready`."""

    def __init__(
        self,
        make: Callable[[], Any],
        kafka_topic: str,
        max_in_flight: int,
        *,
        acknowledged: Callable[[int], None],
        patient: Callable[[], bool],
    ) -> None:
        """`make` gives the Kafka producer. `acknowledged` is told how many more posts, oldest
        first, are settled. `patient` is asked while waiting; False gives up what is left.
        """
        self._make = make
        self._kafka_topic = kafka_topic
        self._max_in_flight = max_in_flight
        self._acknowledged = acknowledged
        self._patient = patient
        self._producer: Any = None
        self._in_flight: deque[Any] = deque()
        self._waiting_since: float | None = time.monotonic()

    def connect(self) -> bool:
        """Returns when a broker answers; False: patience ended before."""
        while self._patient():
            try:
                self._producer = self._make()
            except KafkaTimeoutError as exc:
                log.warning("kafka.away", extra={"error": str(exc)})
            else:
                self._waiting_since = None
                return True
        return False

    def publish(self, post: Post) -> None:
        """Returns once the post is sent, not yet acknowledged; waits while too many are in
        flight. Raises PublishError.
        """
        while len(self._in_flight) >= self._max_in_flight:
            if not self._wait():
                POSTS.labels("failed", "stopped").inc()
                return
        future = self._send(post)
        if future is not None:
            self._in_flight.append(future)

    def settle(self) -> None:
        """Counts what Kafka has answered so far. Raises PublishError."""
        in_flight, settled, refused = self._in_flight, 0, 0
        error: Exception | None = None
        while in_flight and in_flight[0].is_done:
            error = in_flight[0].exception
            if isinstance(error, MessageSizeTooLargeError):
                refused += 1
                log.warning("post.refused", extra={"reason": "too_large", "detail": str(error)})
                error = None
            elif error is not None:
                break
            in_flight.popleft()
            settled += 1
        if settled:
            POSTS.labels("published", "").inc(settled - refused)
            POSTS.labels("refused", "too_large").inc(refused)
            self._acknowledged(settled)
            self._waiting_since = time.monotonic() if in_flight else None
            IN_FLIGHT.set(len(in_flight))
        # Not asked again of the oldest one: it may have been acknowledged in the meantime.
        if error is not None:
            raise PublishError(f"Kafka topic {self._kafka_topic}: {error!r}") from error

    def finish(self) -> None:
        """Waits for what is in flight while patience lasts; the rest counts as failed. The process
        sends nothing afterwards.
        """
        try:
            while self._in_flight and self._wait():
                pass
        finally:
            left = len(self._in_flight)
            if left:
                POSTS.labels("failed", "unacknowledged").inc(left)
            if self._producer is not None:
                _close(self._producer, 0 if left else _CLOSE_SECONDS)

    def unready(self) -> str | None:
        """What is wrong with Kafka, or None."""
        if self._producer is None:
            return "Kafka does not answer"
        since = self._waiting_since
        silent = time.monotonic() - since if since is not None else 0.0
        if silent > _SILENCE_SECONDS:
            return f"Kafka has acknowledged nothing for {silent:.0f} s"
        return None

    def _send(self, post: Post) -> Any:
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        key, value = post.key, encode(post)
        while True:
            try:
                return self._producer.send(self._kafka_topic, value, key)
            except MessageSizeTooLargeError as exc:
                return Future().failure(exc)
            except KafkaTimeoutError as exc:
                log.warning("kafka.topic_away", extra={"error": str(exc)})
                if not self._patient():
                    POSTS.labels("failed", "stopped").inc()
                    return None
            except KafkaError as exc:
                raise PublishError(f"Kafka topic {self._kafka_topic}: {exc!r}") from exc

    def _wait(self) -> bool:
        """Waits a moment for the oldest answer; False: patience has ended."""
        if not self._patient():
            return False
        if not self._in_flight[0].is_done:
            # An error is either no answer yet or an answer that says no: settle knows.
            with suppress(KafkaError):
                self._in_flight[0].get(timeout=_WAIT_SECONDS)
        self.settle()
        return True


def _close(producer: Any, seconds: float) -> None:
    try:
        producer.close(timeout=seconds)
    except KafkaError as exc:
        log.warning("kafka.close_failed", extra={"error": repr(exc)})
