"""The consumer's three overlapping stages: poll and decode, score, store.

    poll thread    Kafka -> decode -> slot; owns the Kafka client, commits what was stored
    score thread   slot -> predictor -> slot
    store thread   slot -> dead-letter topic, PostgreSQL -> what may be committed to Kafka

A slot for one batch stands between two stages. When a dependency is away its stage repeats the same
batch, with growing pauses, for as long as it takes; the slots fill, and the poll thread pauses its
partitions and keeps polling, so that the group keeps this consumer. Nothing is dropped for an
outage.

The ledger in PostgreSQL is the truth about offsets; Kafka's committed offsets follow it for lag
displays and KEDA. When the store finds the ledger elsewhere (FencedError), everything in flight is
dropped and each partition is read again from where the ledger stands.

What is stored is offered to the shadow, where a challenger may score it too; nothing here waits for
that.
"""

import logging
import random
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, Final

import numpy as np
from kafka import ConsumerRebalanceListener, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from services.consumer import metrics
from services.consumer.batch import Batch, Record, ScoredBatch, decode_batch
from services.consumer.dead_letters import DeadLetterTopic
from services.consumer.score import score_batch
from services.consumer.settings import ConsumerSettings
from services.consumer.shadow import Shadow
from services.consumer.slot import Slot
from services.consumer.store import FencedError, Store
from services.core.errors import TemporaryError
from services.core.health import Progress
from services.core.inference import InferenceClient
from services.core.kafka import make_consumer
from services.core.settings import KafkaSettings, PostgresSettings

log = logging.getLogger(__name__)

_POLL_MILLISECONDS: Final = 200
_IDLE_SECONDS: Final = 0.2
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_REVOKE_DRAIN_SECONDS: Final = 5.0
"""How long a rebalance waits for batches in flight; past it the next owner reads those records
again.
"""
_COMMIT_SECONDS: Final = 1.0
"""How far Kafka's view may lag behind the ledger's; a commit for each small batch would cost more
than the batch.
"""
_CLOSE_MILLISECONDS: Final = 5_000
_SILENT_SECONDS: Final = 5.0
"""After so long without a record Kafka is asked whether it is there: a poll of a broker that is
away returns nothing and raises nothing.
"""
_ASK_MILLISECONDS: Final = 3_000
_STALLED_SECONDS: Final = 90.0
"""A stage silent for so long is stuck: longer than the deadlines of a request and of a transaction
together.
"""


@dataclass(frozen=True)
class _Stored:
    """What the store thread tells the poll thread to commit."""

    topic: str
    offsets: dict[int, int]


class Pipeline:
    """Runs the stages until told to stop, then drains them."""

    def __init__(
        self,
        kafka: KafkaSettings,
        postgres: PostgresSettings,
        settings: ConsumerSettings,
        inference: InferenceClient,
        shadow: Shadow | None = None,
    ) -> None:
        self._kafka, self._settings, self._inference = kafka, settings, inference
        self._shadow = shadow
        self._languages: Collection[str] = frozenset(settings.languages.split(","))
        self._store = Store(postgres, settings.group)
        self._placer = Store(postgres, settings.group)
        self._dead_letters = DeadLetterTopic(kafka)
        self._to_score: Slot[Batch] = Slot()
        self._to_store: Slot[ScoredBatch] = Slot()
        self._stored: SimpleQueue[_Stored] = SimpleQueue()
        self._in_flight = 0
        self._in_flight_lock = Lock()
        self._epoch = 0
        self._abandon = Event()
        self._failure: Exception | None = None
        self._waiting: dict[str, str] = {}
        self._assigned = False
        self._progress = {stage: Progress(_STALLED_SECONDS) for stage in ("poll", "score", "store")}

    def problem(self) -> str | None:
        """For /livez: a stage that makes no progress."""
        for stage, progress in self._progress.items():
            if problem := progress.problem():
                return f"{stage}: {problem}"
        return None

    def unready(self) -> str | None:
        """For /readyz: what is being waited for."""
        if waiting := next(iter(self._waiting.values()), None):
            return waiting
        return None if self._assigned else "no Kafka partition assigned yet"

    def run(self, stop: Event, drain_seconds: float) -> None:
        """Works until `stop` is set, then finishes what is in flight within the deadline and
        commits it.

        Raises what ended a stage unexpectedly; whatever happens, nothing is lost and nothing stored
        twice.
        """
        threads = [
            Thread(target=self._guard, args=(self._score_stage,), name="score", daemon=True),
            Thread(target=self._guard, args=(self._store_stage,), name="store", daemon=True),
        ]
        consumer = self._connect(stop)
        if consumer is None:
            return
        for thread in threads:
            thread.start()
        try:
            self._poll_stage(consumer, stop)
            self._drain(drain_seconds)
            self._commit(consumer, wait=True)
        finally:
            self._abandon.set()
            consumer.close(autocommit=False, timeout_ms=_CLOSE_MILLISECONDS)
            for thread in threads:
                thread.join(timeout=_CLOSE_MILLISECONDS / 1000)
            self._placer.close()
            self._dead_letters.close()
        if self._failure is not None:
            raise self._failure

    # Stage 1: poll and decode.

    def _connect(self, stop: Event) -> Any:
        """A Kafka client as soon as a broker answers; None when told to stop before."""
        attempt = 0
        while not stop.is_set():
            for progress in self._progress.values():
                progress.beat()
            try:
                return make_consumer(
                    self._kafka,
                    self._settings.group,
                    session_timeout_ms=self._settings.session_timeout_ms,
                )
            except KafkaError as exc:
                attempt += 1
                self._wait("poll", exc, attempt)
        return None

    def _poll_stage(self, consumer: Any, stop: Event) -> None:
        """Until told to stop."""
        positions: dict[TopicPartition, int] = {}
        listener = _Listener(positions, self._wait_until_idle)
        consumer.subscribe([self._kafka.posts_topic], listener=listener)
        epoch = self._epoch
        committed = heard = time.monotonic()
        while not stop.is_set() and not self._abandon.is_set():
            self._progress["poll"].beat()
            if epoch != self._epoch:
                epoch = self._epoch
                positions.clear()
            # While the stages are busy it polls for nothing, because polling keeps the membership.
            room = self._to_score.wait_until_free(_IDLE_SECONDS)
            self._set_paused(consumer, positions, everything=not room)
            placed = dict(positions)
            try:
                polled = consumer.poll(
                    timeout_ms=_POLL_MILLISECONDS if room else 0,
                    max_records=self._settings.batch_records,
                )
                if polled or not room:
                    heard = time.monotonic()
                elif time.monotonic() - heard > _SILENT_SECONDS:
                    consumer.end_offsets(list(positions), timeout_ms=_ASK_MILLISECONDS)
                    heard = time.monotonic()
            except KafkaError as exc:
                self._wait("poll", exc, 1)
                continue
            self._assigned = bool(consumer.assignment())
            # A partition that cannot be placed must not cost what was polled of the others: the
            # client gives a record once.
            try:
                self._place(consumer, positions)
            except (KafkaError, TemporaryError) as exc:
                self._wait("poll", exc, 1)
            else:
                self._went_on("poll")
            if time.monotonic() - committed > _COMMIT_SECONDS:
                self._commit(consumer, wait=False)
                committed = time.monotonic()
            if not room:
                # Nothing was to come; what came in a rebalance is read again from the ledger.
                for partition in polled:
                    positions.pop(partition, None)
            elif polled and epoch == self._epoch:
                # A partition placed only now is read again from the ledger's offset.
                known = {p: o for p, o in placed.items() if positions.get(p) == o}
                batch = self._decode(epoch, polled, known, _ends(consumer, polled))
                for partition, span in batch.spans.items():
                    positions[TopicPartition(batch.topic, partition)] = span.next
                if batch.spans:
                    with self._in_flight_lock:
                        self._in_flight += 1
                    self._to_score.put(batch)

    def _decode(
        self,
        epoch: int,
        polled: dict[TopicPartition, list[Any]],
        positions: dict[Any, int],
        ends: dict[int, int],
    ) -> Batch:
        started = time.perf_counter()
        records = {
            place.partition: [
                Record(
                    place.topic, place.partition, raw.offset, raw.timestamp, raw.key, raw.value,
                    raw.headers,
                )
                for raw in run
            ]
            for place, run in polled.items()
        }  # fmt: skip
        expected = {place.partition: offset for place, offset in positions.items()}
        now = datetime.now(UTC)
        batch = decode_batch(epoch, self._kafka.posts_topic, records, expected, now, ends)
        metrics.STAGE_SECONDS.labels("decode").inc(time.perf_counter() - started)
        return batch

    def _set_paused(self, consumer: Any, positions: dict[Any, int], *, everything: bool) -> None:
        """Pauses partitions that have no position yet, or all of them while the stages are busy."""
        for partition in consumer.assignment():
            if everything or partition not in positions:
                consumer.pause(partition)
            else:
                consumer.resume(partition)

    def _place(self, consumer: Any, positions: dict[Any, int]) -> None:
        """Sets each newly assigned partition to where the ledger stands."""
        new = [p for p in consumer.assignment() if p not in positions]
        if not new:
            return
        lows, highs = consumer.beginning_offsets(new), consumer.end_offsets(new)
        for partition in new:
            offset = self._placer.place(
                partition.topic, partition.partition, lows[partition], highs[partition]
            )
            consumer.seek(partition, offset)
            positions[partition] = offset
            log.info("partition.placed", extra={"partition": partition.partition, "offset": offset})

    def _commit(self, consumer: Any, *, wait: bool) -> None:
        """Tells Kafka what the ledger holds. A failure costs nothing: the ledger decides where to
        read from.
        """
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        while not self._stored.empty():
            stored = self._stored.get_nowait()
            for partition, offset in stored.offsets.items():
                place = TopicPartition(stored.topic, partition)
                offsets[place] = OffsetAndMetadata(offset, "", -1)
        owned = consumer.assignment()
        offsets = {place: offset for place, offset in offsets.items() if place in owned}
        if not offsets:
            return
        try:
            if wait:
                consumer.commit(offsets, timeout_ms=_CLOSE_MILLISECONDS)
            else:
                consumer.commit_async(offsets)
        except KafkaError as exc:
            log.warning("commit.failed", extra={"error": str(exc)})

    # Stage 2: score.

    def _score_stage(self) -> None:
        while not self._abandon.is_set():
            self._progress["score"].beat()
            if not self._to_store.wait_until_free(_IDLE_SECONDS):
                continue
            batch = self._to_score.take(_IDLE_SECONDS)
            if batch is None:
                continue
            work = partial(
                score_batch, batch, self._inference.score, self._inference.ready, self._languages
            )
            scored = self._until_it_works("score", batch.epoch, work)
            if scored is None:
                self._finish_one()
            else:
                self._to_store.put(scored)

    # Stage 3: store.

    def _store_stage(self) -> None:
        while not self._abandon.is_set():
            self._progress["store"].beat()
            scored = self._to_store.take(_IDLE_SECONDS)
            if scored is None:
                continue
            try:
                work = partial(self._write, scored)
                counts = self._until_it_works("store", scored.batch.epoch, work)
            except FencedError as exc:
                log.warning("ledger.moved_on", extra={"detail": str(exc)})
                metrics.RESETS.inc()
                self._epoch += 1
            else:
                if counts is not None:
                    self._account(scored, counts)
            finally:
                self._finish_one()
        self._store.close()

    def _write(self, scored: ScoredBatch) -> Any:
        """Dead letters first: a record may leave the ledger only when Kafka has its dead letter."""
        self._dead_letters.publish(scored.dead_letters)
        return self._store.write(scored)

    def _account(self, scored: ScoredBatch, counts: dict[str, int]) -> None:
        now = time.time()
        batch = scored.batch
        self._stored.put(
            _Stored(batch.topic, {number: span.next for number, span in batch.spans.items()})
        )
        stamps = np.array([record.timestamp_ms for record in batch.records], dtype=np.float64)
        metrics.APPEND_TO_COMMIT.observe(np.maximum(now - stamps / 1000, 0))
        metrics.UNSCORED.inc(len(scored.unscored))
        for outcome, count in counts.items():
            metrics.POSTS.labels(outcome).inc(count)
        for letter in scored.dead_letters:
            metrics.DEAD_LETTERS.labels(letter.stage, letter.reason).inc()
        if self._shadow is not None:
            self._shadow.offer(scored)

    # What the stages share.

    def _until_it_works(self, stage: str, epoch: int, work: Callable[[], Any]) -> Any:
        """Repeats `work` while a dependency is away. None: the batch was abandoned or belongs to an
        older epoch.
        """
        attempt = 0
        while not self._abandon.is_set() and epoch == self._epoch:
            self._progress[stage].beat()
            started = time.perf_counter()
            try:
                result = work()
            except TemporaryError as exc:
                attempt += 1
                self._wait(stage, exc, attempt)
                continue
            metrics.STAGE_SECONDS.labels(stage).inc(time.perf_counter() - started)
            self._went_on(stage)
            return result
        return None

    def _wait(self, stage: str, exc: Exception, attempt: int) -> None:
        if stage not in self._waiting:
            log.warning("stage.waiting", extra={"stage": stage, "error": str(exc)})
        self._waiting[stage] = f"{stage}: {exc}"
        metrics.WAITING.labels(stage).set(1)
        metrics.RETRIES.labels(stage).inc()
        longest = min(_FIRST_PAUSE_SECONDS * 2 ** min(attempt, 10), _LONGEST_PAUSE_SECONDS)
        self._abandon.wait(random.uniform(longest / 2, longest))  # noqa: S311 - spreads retries

    def _went_on(self, stage: str) -> None:
        if self._waiting.pop(stage, None) is not None:
            log.info("stage.went_on", extra={"stage": stage})
            metrics.WAITING.labels(stage).set(0)

    def _finish_one(self) -> None:
        with self._in_flight_lock:
            self._in_flight -= 1

    def _wait_until_idle(self, seconds: float = _REVOKE_DRAIN_SECONDS) -> bool:
        deadline = time.monotonic() + seconds
        while self._in_flight and time.monotonic() < deadline and not self._abandon.is_set():
            time.sleep(0.01)
        return self._in_flight == 0

    def _drain(self, seconds: float) -> None:
        if not self._wait_until_idle(seconds):
            log.warning("drain.unfinished", extra={"batches": self._in_flight})

    def _guard(self, stage: Callable[[], None]) -> None:
        """Top of a stage's thread: an error that no stage expects stops the whole process,
        loudly.
        """
        try:
            stage()
        except Exception as exc:
            log.exception("stage.failed")
            self._failure = exc
            self._abandon.set()


def _ends(consumer: Any, places: Collection[TopicPartition]) -> dict[int, int]:
    """Where Kafka's records end, of those of the partitions that are still assigned."""
    owned = consumer.assignment() & set(places)
    ends = {place.partition: consumer.highwater(place) for place in owned}
    return {partition: end for partition, end in ends.items() if end is not None}


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # the library has no types
    """Forgets the positions of partitions that are taken away; what is new is placed by the poll
    loop.
    """

    def __init__(
        self, positions: dict[TopicPartition, int], wait_until_idle: Callable[[], bool]
    ) -> None:
        self._positions = positions
        self._wait_until_idle = wait_until_idle

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """New partitions have no position yet; the poll loop pauses and places them."""

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Lets batches in flight reach the ledger, so that the next owner need not read them
        again.
        """
        if any(self._positions.pop(partition, None) is not None for partition in list(revoked)):
            self._wait_until_idle()

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        """Others own them already: the ledger will refuse what is in flight."""
        for partition in lost:
            self._positions.pop(partition, None)
