"""What the poll stage makes of what Kafka's client gives, with a client that follows a script."""

from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any, NamedTuple

from kafka import TopicPartition

from services.consumer.pipeline import Pipeline
from services.consumer.settings import ConsumerSettings
from services.core.errors import TemporaryError
from services.core.events import Post, encode
from services.core.inference import InferenceClient
from services.core.settings import InferenceSettings, KafkaSettings, PostgresSettings

OLD, NEW = TopicPartition("posts", 0), TopicPartition("posts", 1)


class Raw(NamedTuple):
    """A record as the client gives it."""

    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


class ScriptedConsumer:
    """Gives each poll's assignment and records in turn."""

    def __init__(self, *polls: tuple[set[TopicPartition], dict[TopicPartition, list[Raw]]]) -> None:
        self._polls = list(polls)
        self._assigned: set[TopicPartition] = set()
        self.sought: list[tuple[TopicPartition, int]] = []

    def poll(self, **_: Any) -> dict[TopicPartition, list[Raw]]:
        if not self._polls:
            return {}
        self._assigned, records = self._polls.pop(0)
        return records

    def assignment(self) -> set[TopicPartition]:
        return self._assigned

    def beginning_offsets(
        self, partitions: list[TopicPartition], **_: Any
    ) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    end_offsets = beginning_offsets

    def highwater(self, partition: TopicPartition) -> int | None:
        return 9 if partition == OLD else None

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.sought.append((partition, offset))

    def subscribe(self, *_: Any, **__: Any) -> None: ...
    def pause(self, *_: Any) -> None: ...
    def resume(self, *_: Any) -> None: ...
    def commit_async(self, *_: Any) -> None: ...


class Placer:
    """Places at the offsets given, in turn; None is a database that is away."""

    def __init__(self, *offsets: int | None) -> None:
        self._offsets = list(offsets)

    def place(self, *_: Any) -> int:
        offset = self._offsets.pop(0)
        if offset is None:
            raise TemporaryError("PostgreSQL: EOF detected")
        return offset


def raw(offset: int) -> Raw:
    post = Post(source="replay", id=str(offset), text="a text", created_at=datetime.now(UTC))
    return Raw(offset, 0, post.key, encode(post), [])


def spans_read(consumer: ScriptedConsumer, placer: Placer, batches: int) -> list[Any]:
    """Expected offset, next offset and number of records of each partition, batch by batch."""
    pipeline = Pipeline(
        KafkaSettings(),
        PostgresSettings(),
        ConsumerSettings(),
        InferenceClient(InferenceSettings()),
    )
    pipeline._placer = placer  # type: ignore[assignment]
    stop = Event()
    thread = Thread(target=pipeline._poll_stage, args=(consumer, stop))
    thread.start()
    try:
        taken = [pipeline._to_score.take(30) for _ in range(batches)]
    finally:
        stop.set()
        thread.join(5)
    return [
        batch and {p: (s.expected, s.next, s.records) for p, s in batch.spans.items()}
        for batch in taken
    ]


def test_what_was_polled_goes_on_although_a_new_partition_cannot_be_placed() -> None:
    consumer = ScriptedConsumer(
        ({OLD}, {}),
        ({OLD, NEW}, {OLD: [raw(0), raw(1)]}),
        ({OLD, NEW}, {OLD: [raw(2)]}),
    )

    spans = spans_read(consumer, Placer(0, None, 0), 2)

    assert spans == [{0: (0, 2, 2)}, {0: (2, 3, 1)}]


def test_records_polled_before_a_partition_was_placed_are_read_again_from_the_ledger() -> None:
    consumer = ScriptedConsumer(
        ({OLD}, {OLD: [raw(5)]}),
        ({OLD}, {OLD: [raw(3), raw(4), raw(5)]}),
    )

    spans = spans_read(consumer, Placer(3), 1)

    assert spans == [{0: (3, 6, 3)}]
    assert consumer.sought == [(OLD, 3)]
