"""Replays dead letters: publishes the original records again, for a consumer that can take them now
(a fixed reader, a better model). Called by the command line, and run as a job of its own:
`python -m services.consumer.replay`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import KafkaError

from services.consumer.dead_letters import HEADER_PREFIX
from services.consumer.settings import DeadLettersSettings
from services.core import lifecycle
from services.core.errors import TemporaryError
from services.core.kafka import MAX_POST_BYTES, make_consumer, make_producer
from services.core.settings import KafkaSettings, load

_REASON: Final = f"{HEADER_PREFIX}exception.class.name"
_POLL_MILLISECONDS: Final = 500
_ACKNOWLEDGE_SECONDS: Final = 30
_GROUP: Final = "moodstream-replay-dead-letters"
"""Remembers how far the dead letters have been replayed, for each reason asked for and for all."""

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True)
class Replayed:
    """What a replay did."""

    read: int
    replayed: int
    """Of those read, the ones with the reason asked for."""


def main() -> None:
    """Replays what the environment asks for, once."""
    lifecycle.job("replay-dead-letters", _from_environment)


def replay(settings: KafkaSettings, reason: str | None, limit: int | None) -> Replayed:
    """Publishes dead letters again, at most `limit`, only those with `reason` if given.

    Starts where the last replay ended, and ends at what was there when it started: a record that
    fails again comes back as a new dead letter, and must not be replayed for ever. The place is
    remembered only after Kafka has acknowledged every record, so a replay that is cut short may
    repeat some: the consumer knows them as duplicates. Raises TemporaryError when Kafka is away or
    refuses.
    """
    try:
        return _replay(settings, reason, limit)
    except KafkaError as exc:
        raise TemporaryError(f"the dead letters cannot be replayed now: {exc}") from exc


def original_headers(headers: Headers) -> list[tuple[str, bytes]]:
    """The record's own headers, without what says why it is a dead letter."""
    return [(name, value) for name, value in headers if not name.startswith(HEADER_PREFIX)]


def reason_of(headers: Headers) -> str | None:
    """Why the record is a dead letter."""
    return next((value.decode() for name, value in headers if name == _REASON), None)


def _from_environment() -> dict[str, Any]:
    wanted = load(DeadLettersSettings)
    return asdict(replay(load(KafkaSettings), wanted.reason, wanted.limit))


def _replay(settings: KafkaSettings, reason: str | None, limit: int | None) -> Replayed:
    consumer = make_consumer(settings, _GROUP if reason is None else f"{_GROUP}.{reason}")
    producer = make_producer(settings, max_request_size=MAX_POST_BYTES)
    read = 0
    pending = []
    try:
        for record in _records(consumer, settings.dead_letter_topic):
            read += 1
            if reason is None or reason_of(record.headers) == reason:
                pending.append(
                    producer.send(
                        settings.posts_topic,
                        key=record.key,
                        value=record.value,
                        headers=original_headers(record.headers),
                    )
                )
            if limit is not None and len(pending) >= limit:
                break
        for future in pending:
            future.get(timeout=_ACKNOWLEDGE_SECONDS)
        consumer.commit()
    finally:
        producer.close()
        consumer.close()
    return Replayed(read, len(pending))


def _records(consumer: Any, topic: str) -> Iterator[Any]:
    """Everything from where the last replay ended to the end as of now, one partition after the
    other.
    """
    partitions = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic) or ()]
    consumer.assign(partitions)
    for partition, end in consumer.end_offsets(partitions).items():
        consumer.resume(partition)
        consumer.pause(*(other for other in partitions if other != partition))
        while consumer.position(partition) < end:
            yield from consumer.poll(timeout_ms=_POLL_MILLISECONDS, max_records=1).get(
                partition, ()
            )


if __name__ == "__main__":
    main()
