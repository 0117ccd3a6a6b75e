"""Faults of what is in Kafka."""

import json
import time
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from kafka.errors import MessageSizeTooLargeError

from services.core.kafka import MAX_POST_BYTES, make_producer
from tests.faults.scene import Record, Scene
from tests.integration.test_consumer import post
from tests.waiting import wait_until

POISONED = 0


class BrokenKey(str):
    """A header key whose bytes are no UTF-8."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xff\xfe"


@pytest.mark.fault(
    26, "a record whose header key is no UTF-8", "the partition goes on; what was skipped is told"
)
@pytest.mark.xfail(
    strict=True,
    reason="kafka-python refuses the whole batch at each try, so the partition stands still",
)
def test_a_poisonous_header_key_does_not_stop_its_partition(scene: Scene) -> None:
    consumer = scene.consume()
    load = scene.load(100)
    scene.take(100)

    load.send(post, headers=[(BrokenKey("x"), b"1")], partition=POISONED)
    scene.healed()

    scene.recovered("the partition went on", 30)
    scene.invariants([consumer])


@pytest.mark.fault(
    26, "the other partitions beside such a record", "they go on, and the consumer is alive"
)
@pytest.mark.xfail(
    strict=True,
    reason="kafka-python keeps the refused batch at the head of its queue and raises it at every "
    "poll, so every partition of that consumer stands still",
)
def test_a_poisonous_header_key_holds_up_no_other_partition(
    scene: Scene, record_property: Record
) -> None:
    consumer = scene.consume()
    load = scene.load(100)
    scene.take(100)

    load.send(post, headers=[(BrokenKey("x"), b"1")], partition=POISONED)
    consumer_waits = partial(consumer.waits, "poll")
    wait_until(consumer_waits, 30, "a poll stage that says what is wrong")
    load.burst(2_000)
    load.stop()
    ends = scene.ends()
    began = time.monotonic()
    others = [n for n in ends if n != POISONED]
    wait_until(
        lambda: all(scene.places()[n] == ends[n] for n in others), 30, "the others' ends", 0.2
    )

    record_property("seconds", round(time.monotonic() - began, 1))
    record_property("seen", "the others went on; the metric says that the poll stage waits")
    assert consumer.status("/livez") == 200
    assert consumer.process.poll() is None


@pytest.mark.fault(
    27,
    "records over the client's and over the Kafka topic's limit",
    "refused to who sends them; the consumer is not touched",
)
def test_a_record_over_the_limits_is_refused_at_the_source(scene: Scene) -> None:
    consumer = scene.consume()
    load = scene.load()
    scene.take(300)
    settings = scene.rig.kafka.settings
    large = b"x" * (MAX_POST_BYTES + 1_000)

    careful, careless = make_producer(settings), make_producer(settings, max_request_size=10**7)
    with pytest.raises(MessageSizeTooLargeError):
        careful.send(settings.posts_topic, large).get(30)
    with pytest.raises(MessageSizeTooLargeError):
        careless.send(settings.posts_topic, large).get(30)
    careful.close()
    careless.close()
    before = len(load.acknowledged)
    scene.healed()

    scene.recovered("refused by the client and by the broker")
    scene.invariants([consumer])
    assert before < len(load.acknowledged)
    assert consumer.metric('retries_total{stage="poll"}') == 0


@pytest.mark.fault(
    29,
    "clocks: 1970, far future, a leap day, a change to summer time, an odd offset",
    "minutes are UTC's; what cannot be true is a dead letter with its reason",
)
def test_times_are_utc_and_impossible_ones_are_set_aside(scene: Scene) -> None:
    now = datetime.now(UTC)
    good = {
        "2024-02-29T23:59:59.999+00:00": "2024-02-29 23:59",
        "2024-02-29T23:30:00-01:00": "2024-03-01 00:30",
        "2025-03-30T01:59:59+01:00": "2025-03-30 00:59",
        "2025-03-30T03:00:00+02:00": "2025-03-30 01:00",
        "2025-06-01T00:00:00+05:45": "2025-05-31 18:15",
    }
    ahead = now + timedelta(hours=2)
    bad = ["1970-01-01T00:00:00+00:00", (now + timedelta(days=2)).isoformat()]
    consumer = scene.consume()
    load = scene.load(100)
    scene.take(100)

    def at(moment: str) -> int:
        return load.send(
            # Written as text, so that no model of ours has a say in it.
            lambda number: json.dumps(json.loads(post(number)) | {"created_at": moment}).encode()
        )

    numbers = {moment: at(moment) for moment in [*good, ahead.isoformat()]}
    poison = [at(moment) for moment in bad]
    scene.healed()

    scene.recovered("minutes in UTC; 1970 and two days ahead are dead letters")
    scene.invariants([consumer], poison)
    for moment, minute in good.items():
        stored = scene.rig.query(
            "SELECT to_char(date_trunc('minute', created_at), 'YYYY-MM-DD HH24:MI') FROM posts "  # noqa: S608
            f"WHERE id = '{numbers[moment]:07d}'"
        )
        assert stored == [(minute,)]
        rolled = scene.rig.query(
            f"SELECT sum(posts)::int FROM rollup_minute WHERE topic = '*' AND minute = '{minute}Z'"  # noqa: S608
        )
        assert rolled == [(1,)]
    assert consumer.metric('dead_letters_total{reason="invalid_field",stage="decode"}') == len(bad)
