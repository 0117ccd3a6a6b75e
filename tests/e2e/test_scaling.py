"""Consumers come and go with real lag."""

import json
from functools import partial
from itertools import pairwise
from typing import Any

from tests.e2e.deployed import CONSUMER, WAY_OUT, Batch, Platform, client_of

_WAVE = 100_000
_MOST_WAVES = 4
_WAVE_SECONDS = 180
_SCALE_DOWN_SECONDS = 15
_CALM_SECONDS = 900
_LONGEST_GAP_SECONDS = 30
"""How long a partition may be without an owner, as seen by a look a second."""
_REBALANCES_PER_CHANGE = 3
"""A change of members is two rebalances of the cooperative protocol, and may meet another one."""


def test_consumers_follow_the_lag_out_and_in_and_lose_nothing(platform: Platform) -> None:
    scaling = platform.get("scaledobject", "moodstream-consumer")["spec"]
    fewest, most = scaling.get("minReplicaCount", 0), scaling["maxReplicaCount"]
    partitions = platform.get("kafkatopic", "posts")["spec"]["partitions"]
    platform.wait(lambda: _consumers(platform) == fewest, _CALM_SECONDS, "the calm before")
    before = platform.counts()
    watcher = platform.start(
        "moodstream-consumer", "watch_group.py", labels=WAY_OUT | client_of("kafka")
    )

    quick = {"consumer": {"scaling": {"scaleDownSeconds": _SCALE_DOWN_SECONDS}}}
    with platform.upgraded("moodstream", quick):
        batches: list[Batch] = []
        while len(batches) < _MOST_WAVES and _replicas(platform) <= fewest:
            batch = platform.produce(_WAVE)
            batches.append(batch)
            more_or_done = partial(_more_or_done, platform, fewest, batch)
            platform.wait(more_or_done, _WAVE_SECONDS, "more consumers, or no more posts")
        reached = _replicas(platform)
        for batch in batches:
            platform.finish(batch.pod, _WAVE_SECONDS)
            platform.wait_for_rows(batch, batch.count, _WAVE_SECONDS)
        platform.wait(
            lambda: _consumers(platform) == fewest,
            120 + most * 2 * (_SCALE_DOWN_SECONDS + 15),
            "back to the fewest consumers",
        )

    assert fewest < reached <= most
    platform.assert_reconciled(before, *batches)
    _assert_calm(platform.kubectl("logs", watcher), partitions)
    platform.kubectl("delete", "pod", watcher)


def _more_or_done(platform: Platform, fewest: int, batch: Batch) -> bool:
    return _replicas(platform) > fewest or platform.rows(batch) == batch.count


def _consumers(platform: Platform) -> int:
    """How many consumers there are, those that start and those that end included."""
    return len(platform.find("pods", CONSUMER))


def _replicas(platform: Platform) -> int:
    """How many consumers are ready to work."""
    status = platform.get("deployment", "moodstream-consumer")["status"]
    return int(status.get("readyReplicas", 0))


def _assert_calm(log: str, partitions: int) -> None:
    """No partition was without an owner for long, and the group was not in rebalances all the
    time.
    """
    looks: list[dict[str, Any]] = [json.loads(line) for line in log.splitlines() if line[0] == "{"]
    whole = [_is_whole(look, partitions) for look in looks]
    good = [look for look, is_whole in zip(looks, whole, strict=True) if is_whole]
    longest = max(later["at"] - earlier["at"] for earlier, later in pairwise(good))
    rebalances = sum(earlier and not later for earlier, later in pairwise(whole))
    changes = sum(
        len(earlier["members"]) != len(later["members"]) for earlier, later in pairwise(good)
    )

    assert changes >= 2
    assert longest < _LONGEST_GAP_SECONDS
    assert rebalances <= changes * _REBALANCES_PER_CHANGE


def _is_whole(look: dict[str, Any], partitions: int) -> bool:
    """Whether every partition has exactly one owner."""
    owned = sorted(partition for member in look["members"] for partition in member)
    return look["state"] == "Stable" and owned == list(range(partitions))
