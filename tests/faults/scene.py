"""One fault's scene: the real parts under a steady load, the moment of healing, and what must hold
afterwards.
"""

import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import KafkaError

from services.core.kafka import MAX_POST_BYTES, make_consumer, make_producer
from tests.integration.conftest import PARTITIONS, KafkaHandle, PostgresHandle, Predictor
from tests.integration.test_consumer import Rig, post
from tests.ports import free_port
from tests.waiting import status, wait_until

RECOVERY_SECONDS: Final = 120.0
"""What a busy machine may need; how long it really took is in the table."""
_ASK_SECONDS: Final = 0.2
_TICK_SECONDS: Final = 0.05
_SETTLE_SECONDS: Final = 150.0
"""Longer than the Kafka client keeps trying to deliver a record."""

Place = tuple[int, int]
"""Partition and offset of a record."""


Record = Callable[[str, Any], None]
"""pytest's record_property: what the table shows."""


class Load:
    """Posts at a steady rate, from a thread of its own; remembers what Kafka acknowledged."""

    def __init__(self, kafka: KafkaHandle, rate: int, make: Callable[[int], bytes] = post) -> None:
        """`rate` is in posts/s; `make` gives the post of a number."""
        self.attempted = 0
        self.acknowledged: dict[int, Place] = {}
        """By the post's number."""
        self._topic = kafka.settings.posts_topic
        self._producer = make_producer(kafka.settings, max_request_size=MAX_POST_BYTES)
        self._rate, self._make = rate, make
        self._futures: list[Any] = []
        self._lock = Lock()
        self._stop = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, make: Callable[[int], bytes | None], **options: Any) -> int:
        """One record more, outside the rate; returns its number."""
        with self._lock:
            number = self.attempted
            self.attempted += 1
        try:
            future = self._producer.send(
                self._topic, key=str(number).encode(), value=make(number), **options
            )
        except KafkaError:
            return number
        self._futures.append((number, future))
        return number

    def burst(self, count: int) -> None:
        """So many posts at once."""
        for _ in range(count):
            self.send(self._make)

    def stop(self) -> None:
        """Returns when Kafka has acknowledged or refused each post."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        deadline = time.monotonic() + _SETTLE_SECONDS
        for number, future in self._futures:
            try:
                answer = future.get(timeout=max(0.01, deadline - time.monotonic()))
            except KafkaError:
                continue
            self.acknowledged[number] = (answer.partition, answer.offset)
        self._producer.close(timeout=5)

    def _run(self) -> None:
        due, began = 0, time.monotonic()
        while not self._stop.wait(_TICK_SECONDS):
            wanted = int((time.monotonic() - began) * self._rate)
            while due < wanted and not self._stop.is_set():
                self.send(self._make)
                due += 1


@dataclass(frozen=True)
class Consumer:
    """A consumer's process, its port and its log."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def metric(self, name: str) -> float:
        """A sample by its name after moodstream_consumer_, labels included; 0 while there is
        none.
        """
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.search(rf"^moodstream_consumer_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def status(self, path: str) -> int:
        """HTTP status of /livez or /readyz; 0 while nothing answers."""
        return status(f"http://127.0.0.1:{self.port}{path}")

    def waits(self, stage: str) -> bool:
        """Whether a stage has tried again and still waits for what it depends on."""
        return (
            self.metric(f'waiting{{stage="{stage}"}}') == 1
            and self.metric(f'retries_total{{stage="{stage}"}}') > 0
        )

    def count(self, event: str) -> int:
        """How often an event is in the log."""
        return self.log.read_text().count(f'"{event}"')


class Scene:
    """A rig under load, with a clock for the recovery and the invariants."""

    def __init__(
        self,
        kafka: KafkaHandle,
        postgres: PostgresHandle,
        predictor: Predictor,
        folder: Path,
        record: Record,
    ) -> None:
        """`record` takes what the table shows: seen, seconds."""
        self.rig = Rig(kafka, postgres, predictor, folder)
        self._folder, self._record = folder, record
        self._load: Load | None = None
        self._healed_at = 0.0
        self._ends: dict[int, int] = {}

    def consume(self, **settings: str) -> Consumer:
        """Starts one more consumer."""
        port = free_port()
        log = self._folder / f"consumer-{len(self.rig.consumers)}.log"
        return Consumer(self.rig.start(SERVICE_PORT=str(port), **settings), port, log)

    def load(self, rate: int = 300, make: Callable[[int], bytes] = post) -> Load:
        """Posts from now on until the recovery."""
        self._load = Load(self.rig.kafka, rate, make)
        return self._load

    def close(self) -> None:
        """Ends the consumers and what still sends."""
        for consumer in self.rig.consumers:
            consumer.kill()
            consumer.wait(30)
        self._stop_load()

    def _stop_load(self) -> None:
        if self._load is not None:
            self._load.stop()

    def taken(self) -> int:
        """Records that the ledger accounts for."""
        return sum(self.rig.ledger().values())

    def take(self, more: int, seconds: float = 60) -> None:
        """Returns when the ledger accounts for so many records more."""
        goal = self.taken() + more
        wait_until(
            lambda: self.taken() >= goal, seconds, f"a ledger of {goal} records", _ASK_SECONDS
        )

    def places(self) -> dict[int, int]:
        """Where the ledger stands, by partition."""
        return dict(self.rig.query("SELECT kafka_partition, next_offset FROM kafka_offsets"))

    def ends(self) -> dict[int, int]:
        """Where Kafka's records end, by partition."""
        topic = self.rig.kafka.settings.posts_topic
        reader = make_consumer(self.rig.kafka.settings, None)
        found = reader.end_offsets([TopicPartition(topic, n) for n in range(PARTITIONS)])
        reader.close()
        return {place.partition: end for place, end in found.items()}

    def healed(self) -> None:
        """The fault is over: the clock starts, and what Kafka holds by now is what must be taken
        in.
        """
        self._healed_at = time.monotonic()
        self._ends = self.ends()

    def recovered(self, seen: str, seconds: float = RECOVERY_SECONDS) -> None:
        """Returns when everything that Kafka held when it was healed is in the ledger; the load
        stops. `seen` is what the table says of it.
        """

        def caught_up() -> bool:
            places = self.places()
            return all(places.get(n, 0) >= end for n, end in self._ends.items())

        wait_until(caught_up, seconds, "the ledger at Kafka's end", _ASK_SECONDS)
        self._record("seconds", round(time.monotonic() - self._healed_at, 1))
        self._record("seen", seen)
        self._stop_load()

    def invariants(self, alive: Collection[Consumer], poison: Sequence[int] = ()) -> None:
        """What holds after every fault: (a) each acknowledged post is in `posts` or, when it is
        `poison`, in `dead_letters`, and in one of them only, (b) none is there twice, (c) the
        rollups equal a recount, (d) the lag is 0, (e) who should be alive has not crashed.
        """
        query = self.rig.query
        ends = self.ends()
        wait_until(
            lambda: {n: 0 for n in ends} | self.places() == ends,
            RECOVERY_SECONDS,
            "a lag of 0",
            _ASK_SECONDS,
        )
        stored = [int(row[0]) for row in query("SELECT id FROM posts")]
        dead = set(query("SELECT kafka_partition, kafka_offset FROM dead_letters"))
        load = self._load
        assert load is not None
        refused = {number for number, place in load.acknowledged.items() if place in dead}
        assert refused == set(poison)
        assert set(load.acknowledged) - refused <= set(stored)
        assert not refused & set(stored)
        assert len(stored) == len(set(stored)) <= load.attempted
        ledger = self.rig.ledger()
        assert sum(ledger.values()) == sum(ends.values())
        assert (ledger["stored"], ledger["dead_lettered"]) == (len(stored), len(dead))
        assert query("SELECT * FROM rollup_errors") == []
        for consumer in alive:
            assert consumer.process.poll() is None
            assert consumer.status("/livez") == 200
            assert consumer.count("stage.failed") == 0
        self._record("posts", len(load.acknowledged))
