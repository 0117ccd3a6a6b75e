"""Faults of Kafka, and of the way to it."""

import os
import signal
from pathlib import Path

import pytest
from kafka.errors import KafkaTimeoutError

from services.core.kafka import ensure_topics, make_consumer
from services.local import kafka as kafka_module
from services.local.kafka import Kafka
from services.local.net import ADDRESS, accepts
from tests.faults.proxy import Proxy
from tests.faults.scene import Consumer, Record, Scene
from tests.faults.small import small_disk
from tests.integration.conftest import PARTITIONS, KafkaHandle, PostgresHandle, Predictor
from tests.ports import free_port
from tests.waiting import wait_until


def broker_port(scene: Scene) -> int:
    return int(scene.rig.kafka.settings.bootstrap_servers.rpartition(":")[2])


def waits(consumer: Consumer) -> None:
    wait_until(lambda: consumer.waits("poll"), 60, "a poll stage that waits", 0.2)


@pytest.mark.fault(
    2,
    "the only broker is killed and comes back",
    "the consumer lives on; nothing acknowledged is lost; both go on",
)
def test_a_killed_broker_costs_nothing(scene: Scene) -> None:
    consumer = scene.consume()
    load = scene.load()
    scene.take(500)

    scene.rig.kafka.kill()
    assert not accepts(broker_port(scene))
    before = load.attempted
    wait_until(lambda: load.attempted > before + 1_500, 60, "posts while the broker is away")
    alive = consumer.status("/livez")
    scene.rig.kafka.start()
    scene.healed()

    scene.recovered("alive throughout; all posts of the outage taken in")
    scene.invariants([consumer])
    assert alive == 200


@pytest.mark.fault(
    2, "the broker is away: who is told", "the consumer is unready and counts its retries"
)
def test_a_consumer_without_kafka_says_so(scene: Scene) -> None:
    consumer = scene.consume()
    scene.load()
    scene.take(300)

    scene.rig.kafka.kill()
    try:
        waits(consumer)
        assert consumer.status("/readyz") == 503
    finally:
        scene.rig.kafka.start()
        scene.healed()
    scene.recovered("unready while the broker was away")
    scene.invariants([consumer])


@pytest.mark.fault(
    3,
    "the broker is frozen, then goes on",
    "requests time out and are repeated; no duplicates",
)
def test_a_frozen_broker_costs_nothing(scene: Scene) -> None:
    consumer = scene.consume()
    load = scene.load()
    scene.take(500)

    os.killpg(scene.rig.kafka.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(KafkaTimeoutError):
            make_consumer(scene.rig.kafka.settings, None)
        before = load.attempted
        wait_until(lambda: load.attempted > before + 3_000, 60, "posts while the broker is frozen")
        waits(consumer)
        alive = consumer.status("/livez")
    finally:
        os.killpg(scene.rig.kafka.process.pid, signal.SIGCONT)
    scene.healed()

    scene.recovered("alive throughout; no post twice")
    scene.invariants([consumer])
    assert alive == 200
    assert scene.rig.ledger()["duplicates"] == 0


@pytest.mark.fault(
    18,
    "Kafka's disk is full: the broker ends; it comes back with space",
    "the producer's posts wait, unacknowledged; all are taken in afterwards",
)
def test_a_full_kafka_disk_loses_nothing_acknowledged(
    postgres: PostgresHandle, predictor: Predictor, tmp_path: Path, record_property: Record
) -> None:
    with small_disk(tmp_path / "kafka", 96) as disk:
        server = Kafka(tmp_path, free_port(), free_port())
        server.start()
        ensure_topics(server.settings, PARTITIONS)
        scene = Scene(
            KafkaHandle(server, server.settings), postgres, predictor, tmp_path, record_property
        )
        try:
            consumer = scene.consume()
            scene.load()
            scene.take(300)

            disk.fill()
            assert disk.left() == 0
            wait_until(lambda: server.process.exit_status is not None, 60, "a broker that gives up")
            waits(consumer)
            alive = consumer.status("/livez")
            server.process.stop()
            disk.free()
            server.start()
            scene.healed()

            scene.recovered("the broker ended; the consumer waited for it")
            scene.invariants([consumer])
            assert alive == 200
        finally:
            scene.close()
            server.process.stop()


@pytest.mark.fault(
    32,
    "no way to Kafka: refused, then silent",
    "the consumer waits, alive; both sides go on",
)
def test_a_partition_from_kafka_heals(
    postgres: PostgresHandle,
    predictor: Predictor,
    tmp_path: Path,
    record_property: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    with Proxy(port) as proxy:
        # Clients go where the broker says that it is.
        told = "advertised.listeners=PLAINTEXT://{address}:"
        config = kafka_module._CONFIG.replace(f"{told}{{port}}", f"{told}{proxy.port}")
        monkeypatch.setattr(kafka_module, "_CONFIG", config)
        server = Kafka(tmp_path, port, free_port())
        server.start()
        settings = server.settings.model_copy(
            update={"bootstrap_servers": f"{ADDRESS}:{proxy.port}"}
        )
        ensure_topics(settings, PARTITIONS)
        handle = KafkaHandle(server, settings)
        scene = Scene(handle, postgres, predictor, tmp_path, record_property)
        try:
            consumer = scene.consume()
            load = scene.load(100)
            scene.take(200)

            proxy.down()
            assert not accepts(proxy.port)
            before = load.attempted
            wait_until(lambda: load.attempted > before + 500, 60, "posts while Kafka is refused")
            waits(consumer)
            proxy.heal()
            scene.take(500)
            proxy.hang()
            passed, before = proxy.passed, load.attempted
            wait_until(lambda: load.attempted > before + 1_000, 60, "posts while Kafka is silent")
            waits(consumer)
            silent, alive = proxy.passed == passed, consumer.status("/livez")
            proxy.heal()
            scene.healed()

            scene.recovered("refused and silent ways waited for")
            scene.invariants([consumer])
            assert silent
            assert alive == 200
        finally:
            scene.close()
            server.process.stop()
