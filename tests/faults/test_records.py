"""Faults of what is in Kafka."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from kafka.errors import MessageSizeTooLargeError

from services.core.kafka import MAX_POST_BYTES, make_producer
from tests.faults.scene import Scene
from tests.integration.test_consumer import post
from tests.integration.test_local import BrokenKey

POISONED = 0


@pytest.mark.fault(
    26,
    "records whose header key is no UTF-8, one of them no post either",
    "the partition goes on; the post is stored, the other set aside",
)
def test_a_header_key_that_is_no_text_does_not_stop_its_partition(scene: Scene) -> None:
    consumer = scene.consume()
    load = scene.load(100)
    scene.take(100)

    load.send(post, headers=[(BrokenKey("x"), b"1")], partition=POISONED)
    poison = load.send(lambda _: b"{", headers=[(BrokenKey("x"), b"1")], partition=POISONED)
    scene.healed()

    scene.recovered("the post stored, the other a dead letter, nothing skipped", 30)
    scene.invariants([consumer], [poison])


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
