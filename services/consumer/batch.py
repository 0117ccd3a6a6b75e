"""What flows through the consumer's stages: a batch of records, decoded, then scored. Pure; knows
no outside system.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.core.contract import Probabilities
from services.core.errors import BadPostError
from services.core.events import Post, decode


@dataclass(frozen=True, slots=True)
class Record:
    """A Kafka record as it was read: bytes, undecoded."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    """When the broker appended it, in milliseconds since 1970."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that can never be stored or scored, and why."""

    record: Record
    stage: str
    """Where it was found: decode or score."""
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Span:
    """A run of records of one partition: the ledger moves from `expected` to `next`."""

    expected: int
    """Offset that the ledger must stand at before."""
    next: int
    """Offset that it stands at after."""
    records: int
    """Records read; fewer than next - expected where Kafka holds gaps."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Decoded records of one or more partitions of one Kafka topic."""

    epoch: int
    """Batches of an older epoch than the pipeline's are dropped unwritten."""
    topic: str
    spans: Mapping[int, Span]
    """By partition."""
    posts: Sequence[Post]
    records: Sequence[Record]
    """records[i] holds posts[i]."""
    dead_letters: Sequence[DeadLetter]
    ends: Mapping[int, int] = field(default_factory=dict)
    """By partition, where Kafka's records ended when these were read; those it said."""


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """A batch and its predictions."""

    batch: Batch
    scored: Sequence[int]
    """Indexes into batch.posts of the posts that were scored, ascending."""
    unscored: Sequence[int]
    """Indexes of the posts in languages that the model was not trained on, ascending."""
    probabilities: Probabilities
    """Shape [len(scored), 3]."""
    model_name: str
    model_version: str
    dead_letters: Sequence[DeadLetter] = field(default=())
    """The batch's own and those that the model rejected."""


def decode_batch(
    epoch: int,
    topic: str,
    records: Mapping[int, Sequence[Record]],
    positions: Mapping[int, int],
    now: datetime,
    ends: Mapping[int, int] | None = None,
) -> Batch:
    """Decodes what one poll returned, by partition, each in offset order.

    `positions` holds the next expected offset of each partition; records of partitions that it
    lacks, or from before it, are left out: they belong to another owner or were read already.
    """
    spans: dict[int, Span] = {}
    posts: list[Post] = []
    kept: list[Record] = []
    dead: list[DeadLetter] = []
    for partition, run in records.items():
        expected = positions.get(partition)
        if expected is None:
            continue
        fresh = [record for record in run if record.offset >= expected]
        if not fresh:
            continue
        spans[partition] = Span(expected, fresh[-1].offset + 1, len(fresh))
        for record in fresh:
            try:
                posts.append(decode(record.value, now))
            except BadPostError as exc:
                dead.append(DeadLetter(record, "decode", exc.reason, exc.detail))
            else:
                kept.append(record)
    return Batch(epoch, topic, spans, posts, kept, dead, ends or {})
