"""What a person needs when a step has not ended in time: what happened, what the pods that are not
ready said last, and what to type next.
"""

from collections.abc import Iterator
from typing import Final

from services.cluster import kube
from services.cluster.kube import Kube, Object

_EVENTS: Final = 12
_LOG_LINES: Final = 15
_PODS: Final = 4


def lines(cluster: Kube, namespace: str) -> Iterator[str]:
    """In reading order."""
    yield f"last warnings in {namespace}:"
    yield from _indented(_warnings(cluster, namespace) or ["none"])
    for pod in _not_ready(cluster, namespace)[:_PODS]:
        name = pod["metadata"]["name"]
        for container, state in _unfinished(pod):
            yield f"{name}, container {container}: {state}"
            said = cluster.logs(name, container, _LOG_LINES, namespace) or cluster.logs(
                name, container, _LOG_LINES, namespace, previous=True
            )
            yield from _indented(said.splitlines() or ["(has said nothing)"])
    scope = f"kubectl --context {cluster.context} --namespace {namespace}"
    yield f"look closer: {scope} get pods; {scope} describe pod NAME"
    yield "go on: make doctor, then the same command again; what is done is not done twice"


def _warnings(cluster: Kube, namespace: str) -> list[str]:
    events = [e for e in cluster.list(kube.EVENTS, namespace) if e.get("type") == "Warning"]
    events.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
    return [
        f"{event['involvedObject'].get('kind')} {event['involvedObject'].get('name')}: "
        f"{' '.join(str(event.get('message', '')).split())}"
        for event in events[-_EVENTS:]
    ]


def _not_ready(cluster: Kube, namespace: str) -> list[Object]:
    return [
        pod
        for pod in cluster.list(kube.PODS, namespace)
        if pod["status"].get("phase") != "Succeeded" and not kube.is_ready(pod)
    ]


def _unfinished(pod: Object) -> Iterator[tuple[str, str]]:
    status = pod["status"]
    containers = [
        *status.get("initContainerStatuses", []),
        *status.get("containerStatuses", []),
    ]
    for container in containers:
        state = container.get("state") or {}
        ended = state.get("terminated") or {}
        if container.get("ready") or ended.get("reason") == "Completed":
            continue
        reason = (state.get("waiting") or ended).get("reason", "running, not ready")
        yield container["name"], f"{reason}, {container.get('restartCount', 0)} restarts"


def _indented(found: list[str]) -> Iterator[str]:
    return (f"  {line}" for line in found)
