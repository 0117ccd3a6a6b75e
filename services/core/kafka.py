"""The one module that knows the Kafka client library: how this project's consumers, producers and
topics are set up.

kafka-python 3's defaults lose data for us in three places (latest, auto-commit, auto-created
topics); they are overridden here and nowhere else.
"""

from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import TopicAlreadyExistsError
from kafka.record.default_records import DefaultRecordBatch

from services.core.settings import KafkaSettings

_BOOTSTRAP_MILLISECONDS: Final = 5_000
"""Callers try again, and look in between whether they should stop."""
_LONGEST_RECONNECT_MILLISECONDS: Final = 1_000
"""The library's own 30 s would add up to that to every broker's restart."""
_METADATA_MILLISECONDS: Final = 3_000
"""How long a client may be wrong about which partitions there are. kafka-python forgets that it
wanted a topic's metadata when an older request is answered in between: about one new consumer in a
hundred then gets no partition until the next refresh, which is 5 min by the library's default.
"""
_SESSION_MILLISECONDS: Final = 45_000
_MAX_POLL_INTERVAL_MILLISECONDS: Final = 300_000
_FETCH_BYTES_PER_PARTITION: Final = 4 * 1024 * 1024
_PRODUCER_BATCH_BYTES: Final = 131_072
_PRODUCER_LINGER_MILLISECONDS: Final = 5
MAX_POST_BYTES: Final = 4 * 1024 * 1024
"""Largest record that the posts' Kafka topic takes, far above a post's limit: what is too large is
set aside with a reason instead of being refused without one.
"""
MAX_DEAD_LETTER_BYTES: Final = MAX_POST_BYTES + 1024 * 1024
"""Largest dead letter: any record that was taken, and the headers that say what was wrong."""


def _connection(settings: KafkaSettings) -> dict[str, Any]:
    config: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        "bootstrap_timeout_ms": _BOOTSTRAP_MILLISECONDS,
        "reconnect_backoff_max_ms": _LONGEST_RECONNECT_MILLISECONDS,
        "metadata_max_age_ms": _METADATA_MILLISECONDS,
    }
    if settings.username is not None and settings.password is not None:
        config |= {
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": settings.username,
            "sasl_plain_password": settings.password.get_secret_value(),
        }
    tls, sasl = settings.ca_file is not None, settings.username is not None
    config["security_protocol"] = ("SASL_" if sasl else "") + ("SSL" if tls else "PLAINTEXT")
    if tls:
        config["ssl_cafile"] = str(settings.ca_file)
    return config


class _Lenient(bytearray):
    """Bytes whose parts decode with U+FFFD in the place of what is no text."""

    def __getitem__(self, place: Any) -> Any:
        part = super().__getitem__(place)
        return _Lenient(part) if isinstance(place, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


_read_strictly = DefaultRecordBatch._read_msg


def _read_as_java(batch: Any) -> Any:
    """A batch's next record. A header's key that is not UTF-8 is read as Kafka's Java client reads
    it; kafka-python 3.0.12 raises, and then no poll gets past the whole batch.
    """
    try:
        return _read_strictly(batch)
    except UnicodeDecodeError:
        batch._buffer = _Lenient(batch._buffer)
        return _read_strictly(batch)


DefaultRecordBatch._read_msg = _read_as_java


class _Consumer(KafkaConsumer):  # type: ignore[misc]
    """A KafkaConsumer that ends each rebalance that it began."""

    def poll(self, *args: Any, **kwargs: Any) -> Any:
        """As KafkaConsumer.poll.

        A rebalance that new metadata set off, and that is still under way when a poll's time is
        over, is forgotten by kafka-python 3.0.12: it compares the metadata that the unfinished
        assignment was made of, finds nothing changed, and never takes up the answer. The member
        then has no partition and sends no heartbeat, for ever. Asking for the rebalance again
        makes the library await the one under way.
        """
        if self._coordinator is not None and self._coordinator.rejoining:
            self._coordinator.request_rejoin()
        return super().poll(*args, **kwargs)


def make_consumer(
    settings: KafkaSettings,
    group: str | None,
    *,
    session_timeout_ms: int = _SESSION_MILLISECONDS,
    max_poll_interval_ms: int = _MAX_POLL_INTERVAL_MILLISECONDS,
) -> KafkaConsumer:
    """A consumer of raw bytes that never commits by itself and never skips to the end.

    Not thread-safe. Dynamic membership: a scaled-down consumer leaves the group at once. Raises
    KafkaTimeoutError when no broker answers within 5 s.
    """
    return _Consumer(
        **_connection(settings),
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        allow_auto_create_topics=False,
        partition_assignment_strategy=[CooperativeStickyAssignor],
        session_timeout_ms=session_timeout_ms,
        max_poll_interval_ms=max_poll_interval_ms,
        max_partition_fetch_bytes=_FETCH_BYTES_PER_PARTITION,
    )


def make_producer(settings: KafkaSettings, **overrides: Any) -> KafkaProducer:
    """An idempotent producer that waits for all in-sync replicas. Thread-safe.

    The library no longer bounds its memory: the caller bounds the number of unacknowledged futures.
    """
    config = _connection(settings) | {
        "allow_auto_create_topics": False,
        "batch_size": _PRODUCER_BATCH_BYTES,
        "linger_ms": _PRODUCER_LINGER_MILLISECONDS,
    }
    return KafkaProducer(**(config | overrides))


def ensure_topics(settings: KafkaSettings, partitions: int) -> None:
    """Creates both Kafka topics where they are missing. For clusters, the Kafka operator does it.

    Records carry the time of their append, so that latency is measured from what the broker
    accepted.
    """
    admin = KafkaAdminClient(**_connection(settings))
    try:
        for name, count, largest in (
            (settings.posts_topic, partitions, MAX_POST_BYTES),
            (settings.dead_letter_topic, 1, MAX_DEAD_LETTER_BYTES),
        ):
            topic = NewTopic(
                name=name,
                num_partitions=count,
                replication_factor=1,
                topic_configs={
                    "message.timestamp.type": "LogAppendTime",
                    "max.message.bytes": str(largest),
                },
            )
            try:
                admin.create_topics([topic])
            except TopicAlreadyExistsError:
                continue
    finally:
        admin.close()
