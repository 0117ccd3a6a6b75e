"""A wave of negative posts, from a file through every part to somebody's webhook."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.integration.test_consumer import Rig, rig
from tests.integration.test_notifier import (
    RULE,
    SECONDS,
    Notifier,
    Receiver,
    keep,
    notifier,
    receiver,
)
from tests.ports import free_port
from tests.waiting import wait_until

__all__ = ["notifier", "receiver", "rig"]


def replay(rig: Rig, path: Path, texts: Sequence[str], rate: int) -> None:
    """Streams posts about trains, written now, until all are in Kafka."""
    path.write_text("".join(json.dumps({"text": text, "topic": "trains"}) + "\n" for text in texts))
    settings = rig.kafka.settings
    producer = subprocess.run(
        [sys.executable, "-m", "services.producer"],
        env=os.environ
        | {
            "MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
            "MOODSTREAM_KAFKA_POSTS_TOPIC": settings.posts_topic,
            "MOODSTREAM_KAFKA_DEAD_LETTER_TOPIC": settings.dead_letter_topic,
            "MOODSTREAM_PRODUCER_SOURCE": "replay",
            "MOODSTREAM_REPLAY_PATH": str(path),
            "MOODSTREAM_REPLAY_RATE": str(rate),
            "MOODSTREAM_SERVICE_BIND": "127.0.0.1",
            "MOODSTREAM_SERVICE_PORT": str(free_port()),
        },
        timeout=SECONDS,
        check=False,
    )
    assert producer.returncode == 0


def test_a_negative_wave_in_a_replay_is_told_once_and_so_is_its_end(
    rig: Rig, notifier: Notifier, receiver: Receiver, tmp_path: Path
) -> None:
    keep(rig.postgres, **RULE | {"min_posts": 20})
    rig.start()
    notifier.start()

    replay(rig, tmp_path / "calm.jsonl", ["I love this, wonderful"] * 50, 200)
    replay(rig, tmp_path / "wave.jsonl", ["I hate this, awful"] * 400, 200)
    wait_until(lambda: len(receiver.got) == 1, SECONDS)
    replay(rig, tmp_path / "over.jsonl", ["I love this, wonderful"] * 800, 400)
    wait_until(lambda: len(receiver.got) == 2, SECONDS)
    rig.wait_for(1_250)

    # The receiver has verified each signature.
    assert receiver.unsigned == 0
    assert receiver.types() == ["alert.opened", "alert.closed"]
    (_, opened), (_, closed) = receiver.got
    assert opened["data"]["value"] < RULE["threshold"] < closed["data"]["value"]
