"""What a run of the pipeline did, in numbers: read from the ledger, from Kafka and from the
consumers' metrics, and the arithmetic over them.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import KafkaError
from prometheus_client.parser import text_string_to_metric_families

from services.core.contract import LABELS
from services.core.errors import TemporaryError
from services.core.events import ALL_TOPICS
from services.core.kafka import make_consumer
from services.core.postgres import Connection, connect, transaction
from services.core.settings import KafkaSettings, PostgresSettings
from services.local.net import ADDRESS, fetch

_QUERY_SECONDS: Final = 10.0
_QUANTILES: Final = (0.5, 0.99)
CONSUMER_GROUP: Final = "moodstream-consumer"
"""The consumers' own default."""
_APPLICATION: Final = "moodstream local"
_LATENCY: Final = "moodstream_consumer_append_to_commit_seconds"
FINISHED_EVENT: Final = "producer.finished"

_LEDGER: Final = """
SELECT coalesce(sum(stored), 0)::bigint, coalesce(sum(duplicates), 0)::bigint,
    coalesce(sum(dead_lettered), 0)::bigint
FROM kafka_offsets WHERE consumer_group = %s AND kafka_topic = %s
"""
_POSITIONS: Final = """
SELECT kafka_partition, next_offset FROM kafka_offsets
WHERE consumer_group = %s AND kafka_topic = %s
"""
_LABELS: Final = """
SELECT coalesce(sum(negative), 0)::bigint, coalesce(sum(neutral), 0)::bigint,
    coalesce(sum(positive), 0)::bigint
FROM rollup_minute WHERE topic = %s
"""
_NEWEST: Final = """
SELECT coalesce(label::text, '-'), coalesce(score, 0), source, left(text, 200), stored_at
FROM posts ORDER BY stored_at DESC LIMIT %s
"""
_VERSIONS: Final = """
SELECT model_version, count(*) FROM posts
WHERE stored_at >= %s AND model_version IS NOT NULL GROUP BY 1 ORDER BY min(stored_at)
"""


@dataclass(frozen=True)
class Taken:
    """What the ledger says was taken in."""

    stored: int = 0
    duplicates: int = 0
    dead_lettered: int = 0

    @property
    def total(self) -> int:
        """Every record with an outcome."""
        return self.stored + self.duplicates + self.dead_lettered

    def since(self, earlier: "Taken") -> "Taken":
        """What came in between two readings."""
        return Taken(
            *(getattr(self, field.name) - getattr(earlier, field.name) for field in fields(self))
        )


@dataclass(frozen=True)
class Reading:
    """The pipeline at one moment."""

    taken: Taken
    appended: int
    """Records in Kafka's log ever, by its end offsets."""
    lag: int
    """Records in Kafka that the ledger has not reached."""


@dataclass(frozen=True)
class NewPost:
    """A stored post as it is shown."""

    label: str
    score: float
    source: str
    text: str
    stored_at: datetime


@dataclass(frozen=True)
class Rates:
    """Records per second between the last two readings."""

    appended: float
    taken: float


@dataclass(frozen=True)
class Result:
    """What a run did."""

    produced: int
    stored: int
    duplicates: int
    dead_lettered: int
    unaccounted: int
    lag: int
    seconds: float
    latency_ms: dict[str, float | None]
    """p50 and p99 from a record's append in Kafka to its committed row."""
    labels: dict[str, int]
    model: dict[str, str]
    """What serves at the end: name and version."""
    predictions: dict[str, int]
    """Posts of this run by the version that scored them, the first one first."""
    producer: dict[str, int] | None
    """The producer's own account; None when it was cut short."""
    waiting_at_start: int
    """Records that an earlier run had left in Kafka; they are taken in too."""


@dataclass(frozen=True)
class Published:
    """What the producer says it did, in its last log line."""

    published: int
    refused: int = 0
    failed: int = 0
    dropped: int = 0


class Probe:
    """Reads the pipeline's state; every call raises TemporaryError while something is away."""

    def __init__(self, kafka: KafkaSettings, postgres: PostgresSettings, group: str) -> None:
        self._kafka = kafka
        self._postgres = postgres
        self._group = group
        self._consumer: Any = None
        self._connection: Connection | None = None

    def read(self) -> Reading:
        """Ledger before Kafka, so that what is appended in between counts as lag, never as lost."""
        key = (self._group, self._kafka.posts_topic)
        (taken,) = self._query(_LEDGER, *key)
        positions = dict(self._query(_POSITIONS, *key))
        starts, ends = self._log_offsets()
        lag = sum(end - positions.get(number, starts[number]) for number, end in ends.items())
        return Reading(Taken(*taken), sum(ends.values()), lag)

    def labels(self) -> Counter[str]:
        """Posts stored ever, by label."""
        (counts,) = self._query(_LABELS, ALL_TOPICS)
        return Counter(dict(zip(LABELS, counts, strict=True)))

    def newest(self, count: int) -> list[NewPost]:
        """The posts stored last, newest first."""
        return [NewPost(*row) for row in self._query(_NEWEST, count)]

    def predictions(self, since: datetime) -> dict[str, int]:
        """Posts that were stored since then, by the version that scored them."""
        return dict(self._query(_VERSIONS, since))

    def now(self) -> datetime:
        """The database's clock, which stamps the rows."""
        moment: datetime = self._query("SELECT clock_timestamp()")[0][0]
        return moment

    def close(self) -> None:
        """Closes both connections."""
        if self._consumer is not None:
            self._consumer.close()
        if self._connection is not None:
            self._connection.close()

    def _log_offsets(self) -> tuple[dict[int, int], dict[int, int]]:
        try:
            if self._consumer is None:
                self._consumer = make_consumer(self._kafka, group=None)
            topic = self._kafka.posts_topic
            partitions = [
                TopicPartition(topic, number)
                for number in self._consumer.partitions_for_topic(topic) or ()
            ]
            starts = self._consumer.beginning_offsets(partitions)
            ends = self._consumer.end_offsets(partitions)
        except KafkaError as exc:
            raise TemporaryError(f"Kafka: {exc}") from exc
        return (
            {partition.partition: offset for partition, offset in starts.items()},
            {partition.partition: offset for partition, offset in ends.items()},
        )

    def _query(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._postgres, _APPLICATION)
        with transaction(self._connection, _QUERY_SECONDS) as cursor:
            cursor.execute(sql, arguments or None)
            return cursor.fetchall()


class Meter:
    """Measures one run, from when it is made."""

    def __init__(self, probe: Probe, consumer_ports: Iterable[int]) -> None:
        self._probe = probe
        self._ports = tuple(consumer_ports)
        self._before = probe.read()
        self._labels_before = probe.labels()
        self.began_at = probe.now()
        """By the database's clock."""
        self._began = time.monotonic()
        self._last = (self._began, self._before)
        self.rates = Rates(0.0, 0.0)

    def seconds(self) -> float:
        """Since the start of the run."""
        return time.monotonic() - self._began

    def read(self) -> Reading:
        """The pipeline now; updates the rates."""
        reading, now = self._probe.read(), time.monotonic()
        then, last = self._last
        if now > then:
            self.rates = Rates(
                (reading.appended - last.appended) / (now - then),
                (reading.taken.total - last.taken.total) / (now - then),
            )
        self._last = (now, reading)
        return reading

    def labels(self) -> dict[str, int]:
        """Posts stored in this run, by label."""
        now = self._probe.labels()
        return {label: now[label] - self._labels_before[label] for label in LABELS}

    def newest(self, count: int) -> list[NewPost]:
        """The posts stored last, newest first."""
        return self._probe.newest(count)

    def result(self, producer_log: str, model: dict[str, str]) -> Result:
        """The run's figures; the consumers must still be up, for they hold the latencies."""
        seconds, after = self.seconds(), self.read()
        account = published(producer_log)
        appended = after.appended - self._before.appended
        taken = after.taken.since(self._before.taken)
        buckets = latency_buckets(self._ports)
        return Result(
            produced=appended if account is None else account.published,
            stored=taken.stored,
            duplicates=taken.duplicates,
            dead_lettered=taken.dead_lettered,
            unaccounted=unaccounted(account, self._before, after),
            lag=after.lag,
            seconds=round(seconds, 1),
            latency_ms={f"p{q * 100:.0f}": milliseconds(quantile(buckets, q)) for q in _QUANTILES},
            labels=self.labels(),
            model=model,
            predictions=self._probe.predictions(self.began_at),
            producer=None if account is None else asdict(account),
            waiting_at_start=self._before.lag,
        )


def unaccounted(account: Published | None, before: Reading, after: Reading) -> int:
    """Records whose fate is unknown: 0, or something is wrong. Below zero: counted twice.

    What was waiting at the start counts in, and so does what others appended. A producer that
    claims more than Kafka holds has lost the difference.
    """
    claimed = account.published if account else 0
    appended = after.appended - before.appended
    return before.lag + max(claimed, appended) - after.taken.since(before.taken).total


def published(producer_log: str) -> Published | None:
    """The producer's own account, from its log; None when it did not finish."""
    for line in reversed(producer_log.splitlines()):
        if FINISHED_EVENT not in line:
            continue
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if event.get("event") == FINISHED_EVENT:
            return Published(*(int(event.get(field.name, 0)) for field in fields(Published)))
    return None


Buckets = Mapping[float, float]
"""Upper bound in seconds to the count of observations up to it."""


def latency_buckets(ports: Iterable[int]) -> Counter[float]:
    """The latency histogram of all consumers together; one that does not answer counts nothing."""
    total: Counter[float] = Counter()
    for port in ports:
        total.update(parse_buckets(fetch(f"http://{ADDRESS}:{port}/metrics") or ""))
    return total


def parse_buckets(metrics: str) -> Counter[float]:
    """The latency histogram's cumulative buckets in Prometheus' text format."""
    return Counter(
        {
            float(sample.labels["le"]): int(sample.value)
            for family in text_string_to_metric_families(metrics)
            for sample in family.samples
            if sample.name == f"{_LATENCY}_bucket"
        }
    )


def quantile(buckets: Buckets, q: float) -> float | None:
    """The q-quantile, interpolated within its bucket as Prometheus does; None without observations.

    In the last bucket, which has no upper bound, the answer is that bucket's lower bound.
    """
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    rank = q * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank and count > below:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return lower


def milliseconds(seconds: float | None) -> float | None:
    """To a tenth."""
    return None if seconds is None else round(seconds * 1000, 1)
