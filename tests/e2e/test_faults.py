"""Pods deleted under load: nothing is lost, nothing is counted twice."""

import pytest

from tests.e2e.deployed import BROKER, CONSUMER, DATABASE, PREDICTOR, WAY_OUT, Platform, client_of

_COUNT = 12_000
_RATE = 400
_BROKEN = 5
_RECOVERY_SECONDS = 180
_DRAIN_SECONDS = 180


@pytest.mark.parametrize(
    "selector",
    [CONSUMER, PREDICTOR, DATABASE, BROKER],
    ids=["consumer", "predictor", "database", "broker"],
)
def test_a_pod_deleted_under_load_costs_no_post_and_repeats_none(
    platform: Platform, selector: str
) -> None:
    before = platform.counts()
    restarts = _restarts(platform)
    broken = platform.start(
        "moodstream-producer", "send_broken.py", str(_BROKEN), labels=WAY_OUT | client_of("kafka")
    )
    batch = platform.produce(_COUNT, _RATE)
    platform.wait_for_rows(batch, _COUNT // 10, _RECOVERY_SECONDS)
    victim = platform.pod(selector)["metadata"]

    platform.kubectl("delete", "pod", victim["name"], "--grace-period=1", seconds=120)

    platform.wait(
        lambda: platform.pod(selector)["metadata"]["uid"] != victim["uid"],
        _RECOVERY_SECONDS,
        f"another ready pod in the place of {victim['name']}",
    )
    platform.finish(broken, _DRAIN_SECONDS)
    platform.finish(batch.pod, _DRAIN_SECONDS)
    platform.wait_for_rows(batch, _COUNT, _DRAIN_SECONDS)
    platform.assert_reconciled(before, batch, broken=_BROKEN)
    still_there = _restarts(platform)
    assert still_there == {uid: restarts.get(uid, 0) for uid in still_there}


def _restarts(platform: Platform) -> dict[str, int]:
    """How often the containers of each consumer have been restarted: an outage elsewhere is no
    reason.
    """
    return {
        pod["metadata"]["uid"]: sum(
            status["restartCount"] for status in pod["status"].get("containerStatuses", ())
        )
        for pod in platform.find("pods", CONSUMER)
    }
