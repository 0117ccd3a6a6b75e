"""Faults of the consumer's own processes."""

import os
import random
import signal
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.faults.scene import Consumer, Scene
from tests.integration.conftest import PARTITIONS
from tests.waiting import wait_until

KILLS = 10
STORM_CHANGES = 12
MOST_CONSUMERS = 4


@pytest.mark.fault(
    6, "kill -9 at random moments", "what was in flight is read again; nothing twice"
)
def test_kill_9_at_random_moments_costs_nothing(scene: Scene, seed: int) -> None:
    moments = random.Random(seed)
    load = scene.load(1_000)

    for _ in range(KILLS):
        consumer = scene.consume()
        scene.take(moments.randrange(1, 1_500))
        consumer.process.kill()
        assert consumer.process.wait(30) == -signal.SIGKILL
    load.burst(1_000)
    last = scene.consume()
    scene.healed()

    scene.recovered(f"{KILLS} times killed; no post lost, none twice")
    scene.invariants([last])
    assert scene.rig.ledger()["duplicates"] == 0


def started(scene: Scene) -> Consumer:
    """A consumer that is far enough to stop in order."""
    consumer = scene.consume()
    wait_until(lambda: consumer.status("/livez") == 200, 60, "a started consumer")
    return consumer


@pytest.mark.fault(
    8, "rebalance storm", "work goes on through every change; nothing twice; orderly stops are 0"
)
def test_a_rebalance_storm_costs_nothing(scene: Scene, seed: int) -> None:
    choices = random.Random(seed)
    scene.load()
    running = [started(scene)]
    stopped: list[Consumer] = []
    scene.take(300)

    for _ in range(STORM_CHANGES):
        if len(running) == 1 or (len(running) < MOST_CONSUMERS and choices.random() < 0.6):
            running.append(started(scene))
        else:
            gone = running.pop(choices.randrange(len(running)))
            if choices.random() < 0.5:
                gone.process.kill()
            else:
                gone.process.terminate()
                stopped.append(gone)
        scene.take(300)
    scene.healed()

    scene.recovered(f"{STORM_CHANGES} changes, and work between any two of them")
    scene.invariants(running)
    assert [consumer.process.wait(30) for consumer in stopped] == [0] * len(stopped)


@pytest.mark.fault(
    9, "zombie consumer: frozen past its session", "fenced by the ledger; writes nothing"
)
def test_a_zombie_writes_nothing(scene: Scene) -> None:
    zombie = scene.consume()
    load = scene.load()
    scene.take(300)
    load.burst(10_000)
    scene.take(1_000)

    zombie.process.send_signal(signal.SIGSTOP)
    heir = scene.consume()
    wait_until(
        lambda: heir.count("partition.placed") == PARTITIONS, 60, "an heir with every partition"
    )
    scene.take(2_000)
    zombie.process.send_signal(signal.SIGCONT)
    scene.healed()

    scene.recovered("its batches were dropped unwritten; it rejoined")
    wait_until(lambda: zombie.metric("resets_total") > 0, 60, "a fenced zombie")
    scene.invariants([zombie, heir])


@pytest.mark.fault(
    10,
    "batches that take longer than max.poll.interval",
    "no eviction: the poll thread goes on while the stages are busy",
)
def test_a_slow_batch_does_not_cost_the_membership(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = "from services.core import kafka\n" + (
        'kafka.make_consumer.__kwdefaults__["max_poll_interval_ms"] = 6_000\n'
    )
    (tmp_path / "sitecustomize.py").write_text(shorter)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path.cwd())]))
    port = int(scene.rig.predictor.url.rpartition(":")[2])
    with Proxy(port) as proxy:
        consumer = scene.consume(INFERENCE_URL=f"http://127.0.0.1:{proxy.port}")
        scene.load(50)
        scene.take(100)
        proxy.delay(9)
        scene.take(50)
        before = consumer.metric('stage_seconds_total{stage="score"}')
        scene.take(100)
        slow = consumer.metric('stage_seconds_total{stage="score"}') - before
        proxy.heal()
        scene.healed()

        scene.recovered("a batch took 9 s with an interval of 6 s; no partition was given away")
        scene.invariants([consumer])
    assert slow >= 9
    assert consumer.count("partition.placed") == PARTITIONS
