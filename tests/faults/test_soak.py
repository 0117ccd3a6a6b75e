"""Faults at random, one after another, under a steady load."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable

import pytest

from tests.faults.proxy import Proxy
from tests.faults.scene import Consumer, Scene
from tests.waiting import wait_until

SHORT_SECONDS = 60
CONSUMERS = 2
CATCH_UP_SECONDS = 300
"""For all that a storm of faults held up."""


@pytest.mark.fault(40, "soak: faults at random", "every invariant holds at the end")
def test_faults_at_random_lose_nothing(scene: Scene, seed: int) -> None:
    choices = random.Random(seed)
    seconds = int(os.environ.get("FAULTS_SOAK_SECONDS", SHORT_SECONDS))
    rig = scene.rig
    with Proxy(rig.postgres.settings.port) as proxy:
        consumers: list[Consumer] = []

        def consume() -> None:
            consumers.append(scene.consume(POSTGRES_PORT=str(proxy.port)))

        def broker_killed() -> None:
            rig.kafka.kill()
            rig.kafka.start()

        def broker_frozen() -> None:
            group = rig.kafka.process.pid
            os.killpg(group, signal.SIGSTOP)
            pause()
            os.killpg(group, signal.SIGCONT)

        def consumer_killed() -> None:
            gone = consumers.pop(choices.randrange(len(consumers)))
            gone.process.kill()
            consume()

        def consumer_frozen() -> None:
            frozen = choices.choice(consumers).process
            frozen.send_signal(signal.SIGSTOP)
            pause()
            frozen.send_signal(signal.SIGCONT)

        def database_killed() -> None:
            rig.postgres.kill()
            rig.postgres.start()

        def model_killed() -> None:
            rig.predictor.stop()
            rig.predictor.start()

        def database_cut_off() -> None:
            proxy.down()
            pause()
            proxy.heal()

        def pause() -> None:
            """As long as the load needs for some posts more."""
            goal = load.attempted + choices.randrange(200, 2_400)
            wait_until(lambda: load.attempted >= goal, 60, "posts during a fault")

        faults: list[Callable[[], None]] = [
            broker_killed, broker_frozen, consumer_killed, consumer_frozen, database_killed,
            model_killed, database_cut_off,
        ]  # fmt: skip
        for _ in range(CONSUMERS):
            consume()
        load = scene.load(200)
        scene.take(200)

        done: list[str] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            fault = choices.choice(faults)
            sys.stdout.write(f"{fault.__name__}\n")
            fault()
            done.append(fault.__name__)
            pause()
        scene.healed()

        scene.recovered(f"{len(done)} faults in {seconds} s", CATCH_UP_SECONDS)
        scene.invariants(consumers)
        assert done
