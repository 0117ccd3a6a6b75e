"""Dead letters: records that can never be stored or scored, kept whole in a Kafka topic of their
own.

They carry the original key, value, headers and time, and the header names of Kafka Connect's
dead-letter queue (KIP-298), so that existing tools read them.
"""

from collections.abc import Sequence
from typing import Any, Final

from kafka.errors import KafkaError

from services.consumer.batch import DeadLetter
from services.core.errors import TemporaryError
from services.core.kafka import MAX_DEAD_LETTER_BYTES, make_producer
from services.core.settings import KafkaSettings

HEADER_PREFIX: Final = "__connect.errors."
_ACKNOWLEDGE_SECONDS: Final = 30


def headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """The original headers and, after them, where the record came from and what was wrong with
    it.
    """
    record = letter.record
    why = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "connector.name": "moodstream-consumer",
        "task.id": "0",
        "stage": letter.stage,
        "class.name": "services.consumer",
        "exception.class.name": letter.reason,
        "exception.message": letter.detail,
    }
    return [
        *record.headers,
        *((HEADER_PREFIX + name, text.encode(errors="replace")) for name, text in why.items()),
    ]


class DeadLetterTopic:
    """Publishes dead letters, and returns only once Kafka has acknowledged every one of them."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer: Any = None

    def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Raises TemporaryError when Kafka does not acknowledge; a repeated call may write some of
        them twice.
        """
        if not letters:
            return
        try:
            if self._producer is None:
                self._producer = make_producer(
                    self._settings, max_request_size=MAX_DEAD_LETTER_BYTES
                )
            futures = [
                self._producer.send(
                    self._settings.dead_letter_topic,
                    key=letter.record.key,
                    value=letter.record.value,
                    headers=headers(letter),
                    timestamp_ms=letter.record.timestamp_ms,
                )
                for letter in letters
            ]
            for future in futures:
                future.get(timeout=_ACKNOWLEDGE_SECONDS)
        except KafkaError as exc:
            raise TemporaryError(f"the dead-letter topic does not take records: {exc}") from exc

    def close(self) -> None:
        """Leaves nothing unsent: publish has waited for every acknowledgement."""
        if self._producer is not None:
            self._producer.close(timeout=5)
