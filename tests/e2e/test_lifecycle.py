"""Bringing the platform up again, and taking it down."""

import json
import os
from typing import Any

import pytest

from tests.e2e.deployed import CONSUMER, RELEASES, Platform, run

_UP_SECONDS = 1800
_UNINSTALL_SECONDS = 300
_GONE_SECONDS = 180
_UP = os.environ.get("MOODSTREAM_E2E_UP", "make cluster-up CLUSTER=current OPERATORS=present")
"""The command that brought the platform up."""
_KINDS = (
    "deployments,statefulsets,cronjobs,services,configmaps,secrets,serviceaccounts,roles,"
    "rolebindings,networkpolicies,kafkas,kafkanodepools,kafkatopics,kafkausers,"
    "clusters.postgresql.cnpg.io,databases.postgresql.cnpg.io,databaseroles.postgresql.cnpg.io,"
    "servingruntimes,inferenceservices,scaledobjects,triggerauthentications"
)


@pytest.mark.cluster_up
def test_bringing_it_up_again_changes_nothing_and_restarts_nothing(platform: Platform) -> None:
    before, running = _wanted(platform), _running(platform)

    _bring_up()

    assert _wanted(platform) == before
    assert _running(platform) == running


@pytest.mark.teardown
def test_uninstalling_leaves_nothing_that_hangs_and_it_comes_back(attached: Platform) -> None:
    for release in RELEASES:
        attached.helm(
            "uninstall",
            release,
            "--wait",
            "--timeout",
            f"{_UNINSTALL_SECONDS}s",
            seconds=_UNINSTALL_SECONDS + 30,
        )
    kinds = run("kubectl", "api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    listed = ",".join(
        kind
        for kind in kinds
        if not kind.startswith("events") and not kind.endswith("metrics.k8s.io")
    )
    attached.wait(
        lambda: not _leaving(attached, listed), _GONE_SECONDS, "the end of all that was deleted"
    )
    run("kubectl", "delete", "namespace", attached.namespace, "--wait", seconds=_GONE_SECONDS)

    _bring_up()

    assert attached.pod(CONSUMER)


def _bring_up() -> None:
    run("bash", "-euo", "pipefail", "-c", _UP, seconds=_UP_SECONDS)


def _wanted(platform: Platform) -> dict[str, Any]:
    """What is asked of the cluster. The number of consumers is not: it follows the lag."""
    wanted = {}
    for thing in platform.find(_KINDS):
        if thing.get("type", "").startswith("helm.sh/"):
            continue
        name = f"{thing['kind']}/{thing['metadata']['name']}"
        content = {key: value for key, value in thing.items() if key not in ("metadata", "status")}
        if name == "Deployment/moodstream-consumer":
            del content["spec"]["replicas"]
        wanted[name] = json.dumps(content, sort_keys=True)
    return wanted


def _running(platform: Platform) -> set[str]:
    """All pods but the consumers, whose number follows the lag, and those of Jobs."""
    consumers = {pod["metadata"]["name"] for pod in platform.find("pods", CONSUMER)}
    return {
        pod["metadata"]["name"]
        for pod in platform.find("pods")
        if pod["status"]["phase"] == "Running" and pod["metadata"]["name"] not in consumers
    }


def _leaving(platform: Platform, kinds: str) -> list[str]:
    """What was deleted and is still there."""
    return [
        f"{thing['kind']}/{thing['metadata']['name']}"
        for thing in platform.find(kinds)
        if "deletionTimestamp" in thing["metadata"]
    ]
