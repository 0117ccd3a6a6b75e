"""Who may reach what, and who may know what."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.deployed import (
    RELEASES,
    WAY_OUT,
    CommandError,
    Platform,
    client_of,
    complaints,
    is_ready,
)
from tests.missing import missing

_DESTINATIONS = {
    "kafka": "moodstream-kafka-bootstrap:9093",
    "postgres": "warehouse-rw:5432",
    "object-store": "object-store:9000",
    "mlflow": "mlflow:5000",
    "predictor": "predictor:80",
}
_OURS = "app.kubernetes.io/part-of=moodstream"
_ENFORCED = "pod-security.kubernetes.io/enforce"
_OF_KSERVE = "storage-initializer"
"""KServe's own container in the predictor's pod; KServe says how it is confined."""
_PATIENCE_SECONDS = "5"
_SHORTEST_SECRET = 8


@pytest.fixture(scope="module")
def closed(platform: Platform) -> Iterator[Platform]:
    """The platform without what a profile may open to people outside the cluster."""
    with (
        platform.upgraded("mlflow", {"networkPolicy": {"ingressFrom": []}}),
        platform.upgraded(
            "moodstream", {"networkPolicy": {"ingressFrom": {"dashboard": [], "predictor": []}}}
        ),
    ):
        yield platform


def test_each_client_label_opens_its_own_destination_and_no_other(closed: Platform) -> None:
    pods = {name: _start_connecting(closed, WAY_OUT | client_of(name)) for name in _DESTINATIONS}

    reached = {name: _reached(closed, pod) for name, pod in pods.items()}

    assert reached == {name: {name} for name in _DESTINATIONS}


def test_a_pod_without_client_labels_is_refused(closed: Platform) -> None:
    pod = _start_connecting(closed, WAY_OUT)

    assert _reached(closed, pod) == set()


def test_a_pod_without_a_policy_of_its_own_reaches_nothing(closed: Platform) -> None:
    pod = _start_connecting(closed, client_of(*_DESTINATIONS))

    assert _reached(closed, pod) == set()


def test_no_secret_is_in_an_object_a_value_or_a_log(platform: Platform) -> None:
    kinds = "pods,deployments,statefulsets,jobs,cronjobs,configmaps,inferenceservices,kafkas"
    places = {"objects": platform.kubectl("get", kinds, "-o", "yaml")}
    for release in RELEASES:
        places[f"values of {release}"] = platform.helm("get", "values", release, "--all")
        places[f"manifest of {release}"] = platform.helm("get", "manifest", release)
    for pod in filter(is_ready, platform.find("pods")):
        name = pod["metadata"]["name"]
        places[f"log of {name}"] = platform.kubectl("logs", name, "--all-containers", "--tail=5000")

    secrets = {
        name: max(value.splitlines(), key=len)
        for name, value in platform.secrets().items()
        if len(value) >= _SHORTEST_SECRET
    }
    found = [
        (secret, place)
        for secret, value in secrets.items()
        for place, content in places.items()
        if value in content
    ]

    assert len(secrets) > len(RELEASES)
    assert found == []


def test_a_restricted_namespace_would_take_all_our_pods(platform: Platform) -> None:
    """The API server's own judgement: it warns of the pods that it would no longer take."""
    ours = {pod["metadata"]["name"] for pod in platform.find("pods", _OURS)}

    warned = complaints(
        "kubectl", "label", "--dry-run=server", "--overwrite", "namespace", platform.namespace,
        f"{_ENFORCED}=restricted",
    )  # fmt: skip

    assert len(ours) >= 5
    assert {name for name in ours if name in warned} == set()


def test_the_namespace_refuses_pods_that_are_not_restricted(platform: Platform) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "e2e-unrestricted"},
        "spec": {"containers": [{"name": "any", "image": "any"}]},
    }
    labels = platform.get("namespace", platform.namespace)["metadata"]["labels"]
    if labels.get(_ENFORCED) != "restricted":
        missing(f"the namespace's owner enforces {labels.get(_ENFORCED)}, not restricted")

    with pytest.raises(CommandError, match="restricted"):
        platform.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


def test_our_containers_are_confined_and_cannot_write_to_their_image(platform: Platform) -> None:
    pods = platform.find("pods", _OURS)
    loose = [
        (pod["metadata"]["name"], container["name"])
        for pod in pods
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
        if container["name"] != _OF_KSERVE
        and not _is_confined(
            pod["spec"].get("securityContext", {}) | container.get("securityContext", {})
        )
    ]

    assert len(pods) >= 5
    assert loose == []


def test_only_the_promoter_holds_a_token_of_the_cluster(platform: Platform) -> None:
    """The promoter's container alone: the examiner beside it loads what anybody has registered."""
    holders = {
        (pod["metadata"]["labels"]["app.kubernetes.io/component"], container["name"])
        for pod in platform.find("pods", _OURS)
        for volume in pod["spec"]["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
        if "serviceAccountToken" in source
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
        for mount in container.get("volumeMounts", ())
        if mount["name"] == volume["name"]
    }

    assert holders == {("promoter", "promoter")}


def _start_connecting(platform: Platform, labels: dict[str, str]) -> str:
    return platform.start(
        "moodstream-producer",
        "connect.py",
        _PATIENCE_SECONDS,
        *_DESTINATIONS.values(),
        labels=labels,
    )


def _reached(platform: Platform, pod: str) -> set[str]:
    answers = json.loads(platform.finish(pod, 120))
    return {name for name, address in _DESTINATIONS.items() if answers[address]}


def _is_confined(context: dict[str, Any]) -> bool:
    return (
        context.get("runAsNonRoot") is True
        and context.get("readOnlyRootFilesystem") is True
        and context.get("allowPrivilegeEscalation") is False
        and context.get("capabilities", {}).get("drop") == ["ALL"]
        and context.get("seccompProfile", {}).get("type") == "RuntimeDefault"
    )
