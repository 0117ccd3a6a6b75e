"""What a cluster does to pods, and outages of what they need, under load: nothing is lost, nothing
is counted twice.
"""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.e2e.deployed import (
    BROKER,
    CONSUMER,
    DATABASE,
    PREDICTOR,
    WAY_OUT,
    CommandError,
    Platform,
    client_of,
)

_COUNT = 12_000
_RATE = 400
_BROKEN = 5
_RECOVERY_SECONDS = 180
_DRAIN_SECONDS = 180
_OUTAGE_COUNT = 6_000
_EAT_MEMORY = """
import os, time
for _ in range(200):
    if os.fork() == 0:
        held = bytearray(b"x" * 2**24)
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""
"""In many small processes, for the kernel ends the largest: the consumer."""
_END_CONNECTIONS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE application_name = 'moodstream-consumer'"
)


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


def test_an_evicted_consumer_ends_by_itself_and_costs_no_post(platform: Platform) -> None:
    before = platform.counts()
    batch = platform.produce(_COUNT, _RATE)
    platform.wait_for_rows(batch, _COUNT // 10, _RECOVERY_SECONDS)
    victim = platform.pod(CONSUMER)["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": victim}}
    path = f"/api/v1/namespaces/{platform.namespace}/pods/{victim}/eviction"
    exit_code = "{.status.containerStatuses[0].state.terminated.exitCode} "
    watch = ["kubectl", "-n", platform.namespace, "get", "pod", victim, "--watch"]
    with subprocess.Popen(
        [*watch, "-o", f"jsonpath={exit_code}"], stdout=subprocess.PIPE, text=True
    ) as watching:
        try:
            platform.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
            platform.kubectl("wait", "--for=delete", f"pod/{victim}", "--timeout=60s", seconds=70)
        finally:
            watching.terminate()
        assert watching.stdout is not None
        assert set(watching.stdout.read().split()) == {"0"}

    platform.finish(batch.pod, _DRAIN_SECONDS)
    platform.wait_for_rows(batch, _COUNT, _DRAIN_SECONDS)
    platform.assert_reconciled(before, batch)


def test_a_consumer_that_runs_out_of_memory_costs_no_post(platform: Platform) -> None:
    before = platform.counts()
    batch = platform.produce(_COUNT, _RATE)
    platform.wait_for_rows(batch, _COUNT // 10, _RECOVERY_SECONDS)
    victim = platform.pod(CONSUMER)["metadata"]

    with contextlib.suppress(CommandError):  # It is killed with the container.
        platform.kubectl("exec", victim["name"], "--", "python", "-c", _EAT_MEMORY, seconds=120)

    def ended() -> str:
        statuses = platform.get("pod", victim["name"])["status"]["containerStatuses"]
        return str(statuses[0]["lastState"].get("terminated", {}).get("reason"))

    platform.wait(lambda: ended() == "OOMKilled", _RECOVERY_SECONDS, "a container out of memory")
    platform.finish(batch.pod, _DRAIN_SECONDS)
    platform.wait_for_rows(batch, _COUNT, _DRAIN_SECONDS)
    platform.assert_reconciled(before, batch)


@contextmanager
def _read_only(platform: Platform) -> Iterator[None]:
    setting = "ALTER DATABASE moodstream SET default_transaction_read_only = "
    platform.execute(setting + "on")
    _connections_ended(platform)
    try:
        yield
    finally:
        platform.execute("SET TRANSACTION READ WRITE", setting + "off")
        _connections_ended(platform)


@contextmanager
def _cut_off_from_the_database(platform: Platform) -> Iterator[None]:
    # Policies let in who has the label. What is open stays open, so it is ended.
    label = "moodstream.io/postgres-client"
    platform.kubectl("label", "pods", "-l", CONSUMER, f"{label}-")
    platform.wait(lambda: _connections_ended(platform) == 0, 60, "no connection of a consumer")
    try:
        yield
    finally:
        platform.kubectl("label", "pods", "-l", CONSUMER, f"{label}=true")


@contextmanager
def _no_names(platform: Platform) -> Iterator[None]:
    # What is connected needs no name, so its connections are ended.
    scale = ("-n", "kube-system", "scale", "deployment", "coredns")
    platform.kubectl(*scale, "--replicas=0")
    platform.kubectl(
        "-n", "kube-system", "wait", "--for=delete", "pod", "-l", "k8s-app=kube-dns",
        "--timeout=60s", seconds=70,
    )  # fmt: skip
    platform.wait(lambda: _connections_ended(platform) == 0, 60, "no connection of a consumer")
    try:
        yield
    finally:
        platform.kubectl(*scale, "--replicas=1")


@pytest.mark.parametrize(
    "outage",
    [_read_only, _cut_off_from_the_database, _no_names],
    ids=["database read-only", "network to the database", "names"],
)
def test_an_outage_is_waited_for_without_a_restart_or_a_dead_letter(
    platform: Platform, outage: Callable[[Platform], AbstractContextManager[None]]
) -> None:
    before = platform.counts()
    restarts = _restarts(platform)
    batch = platform.produce(_OUTAGE_COUNT, _RATE)
    platform.wait_for_rows(batch, _OUTAGE_COUNT // 10, _RECOVERY_SECONDS)

    with outage(platform):
        stopped_at = platform.rows(batch)
        platform.finish(batch.pod, _DRAIN_SECONDS)
        assert platform.rows(batch) == stopped_at < _OUTAGE_COUNT
    platform.wait_for_rows(batch, _OUTAGE_COUNT, _DRAIN_SECONDS)

    platform.assert_reconciled(before, batch)
    still_there = _restarts(platform)
    assert still_there == {uid: restarts.get(uid, 0) for uid in still_there}


def _connections_ended(platform: Platform) -> int:
    """How many connections to the database there were; they are ended."""
    return int(platform.execute(_END_CONNECTIONS))


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
