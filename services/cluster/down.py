"""Takes the platform down, in the order in which the parts depend on each other, so that nothing
waits for an operator that is gone already. Called by the command line.
"""

import time
from typing import Final

from services.cluster import helm, kind, kube, preflight
from services.cluster.errors import ClusterError, NotReadyError
from services.cluster.kube import Kube, Resource
from services.cluster.options import KIND_CLUSTER, NAMESPACE, Options, Target
from services.cluster.screen import Screen
from services.cluster.wait import until

_UNINSTALL_SECONDS: Final = 180
_GONE_SECONDS: Final = 60.0
_NAMESPACE_SECONDS: Final = 120.0
_FINALIZED: Final[tuple[Resource, ...]] = (
    kube.SCALED_OBJECTS,
    kube.INFERENCE_SERVICES,
    kube.KAFKA_TOPICS,
    kube.KAFKA_USERS,
    kube.KAFKAS,
    kube.DATABASES,
    kube.CLUSTERS,
)
"""What an operator must let go before it ends."""


def run(options: Options, purge: bool, screen: Screen) -> float:
    """Removes the kind cluster, or, on another, our releases; with `purge` the namespace too, and
    all data in it. How long it took, in seconds.
    """
    began = time.monotonic()
    if options.target is Target.KIND:
        with screen.step(f"kind cluster {KIND_CLUSTER}"):
            kind.delete()
        return round(time.monotonic() - began, 1)
    cluster, check = preflight.connect(options)
    if cluster is None:
        raise ClusterError(str(check))
    screen.say(check.detail)
    for chart in ("moodstream", "mlflow"):
        with screen.step(f"chart {chart}"):
            _uninstall(cluster, chart, screen)
    with screen.step("Kafka's topics and users"):
        # Their operator is part of the Kafka that the next step removes.
        for resource in (kube.KAFKA_TOPICS, kube.KAFKA_USERS):
            for thing in cluster.list(resource):
                cluster.delete(resource, thing["metadata"]["name"])
        _let_go(cluster, (kube.KAFKA_TOPICS, kube.KAFKA_USERS), screen)
    with screen.step("chart platform"):
        _uninstall(cluster, "platform", screen)
        _let_go(cluster, _FINALIZED, screen)
    with screen.step(f"namespace {NAMESPACE}"):
        if purge:
            cluster.delete(kube.NAMESPACES, NAMESPACE, None)
            until(NAMESPACE, lambda: _there(cluster), _NAMESPACE_SECONDS, screen.note)
        else:
            screen.note("stays, with its secrets: PURGE=true removes it")
    screen.say("the operators stay; next: make cluster-up")
    return round(time.monotonic() - began, 1)


STEPS: Final = 5
"""On a cluster that is not kind's."""


def _uninstall(cluster: Kube, chart: str, screen: Screen) -> None:
    if chart not in helm.installed(cluster, NAMESPACE):
        screen.note("is not installed")
        return
    helm.remove(cluster.context, chart, NAMESPACE, _UNINSTALL_SECONDS)


def _let_go(cluster: Kube, resources: tuple[Resource, ...], screen: Screen) -> None:
    """Waits until the objects are gone; those whose operator does not answer are let go by hand."""
    try:
        until("removal", lambda: _ending(cluster, resources), _GONE_SECONDS, screen.note)
    except NotReadyError:
        for resource in resources:
            for thing in cluster.list(resource):
                if "deletionTimestamp" in thing["metadata"]:
                    name = thing["metadata"]["name"]
                    screen.say(f"{thing['kind']} {name}: its operator does not answer, let go")
                    cluster.patch(resource, name, {"metadata": {"finalizers": None}})


def _ending(cluster: Kube, resources: tuple[Resource, ...]) -> str | None:
    for resource in resources:
        for thing in cluster.list(resource):
            if "deletionTimestamp" in thing["metadata"]:
                return f"{thing['kind']} {thing['metadata']['name']} ends"
    return None


def _there(cluster: Kube) -> str | None:
    if cluster.find(kube.NAMESPACES, NAMESPACE, None) is None:
        return None
    return "its objects end"
