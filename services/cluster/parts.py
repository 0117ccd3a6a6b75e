"""The parts of the platform and what "ready" means for each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from services.cluster import kube
from services.cluster.kube import Kube, Object, Resource
from services.cluster.options import NAMESPACE
from services.core.contract import VERSION_ANNOTATION

INFERENCE_SERVICE: Final = "sentiment"
PREDICTOR: Final = "predictor"
"""Our own address of the model server: KServe's own changes its name."""
_HEALTHY: Final = "Cluster in healthy state"
_OURS: Final = "app.kubernetes.io/part-of=moodstream"
_COMPONENT: Final = "app.kubernetes.io/component"
_SERVED: Final = f"serving.kserve.io/inferenceservice={INFERENCE_SERVICE}"


@dataclass(frozen=True)
class Part:
    """One part, as it is now."""

    name: str
    waiting_for: str | None
    """None: nothing, it is ready."""
    version: str

    @property
    def ready(self) -> bool:
        """Whether it waits for nothing."""
        return self.waiting_for is None


def kafka(cluster: Kube) -> str | None:
    """What Kafka, its topics and its users wait for."""
    found = cluster.list(kube.KAFKAS)
    if not found:
        return "there is no Kafka"
    return (
        _custom(found)
        or _custom(cluster.list(kube.KAFKA_TOPICS))
        or _custom(cluster.list(kube.KAFKA_USERS))
    )


def postgres(cluster: Kube) -> str | None:
    """What PostgreSQL and its databases wait for."""
    found = cluster.list(kube.CLUSTERS)
    if not found:
        return "there is no PostgreSQL"
    for one in found:
        status = one.get("status") or {}
        if status.get("phase") != _HEALTHY:
            return str(status.get("phase") or "not noticed yet")
        if status.get("readyInstances", 0) < one["spec"]["instances"]:
            return f"{status.get('readyInstances', 0)} of {one['spec']['instances']} instances"
    for database in cluster.list(kube.DATABASES):
        status = database.get("status") or {}
        if not status.get("applied"):
            return f"database {database['metadata']['name']}: {status.get('message', 'not made')}"
    return None


def workloads(cluster: Kube, *components: str) -> str | None:
    """What the Deployments and StatefulSets of these components wait for; of all, if none is
    named.
    """
    for thing in _workloads(cluster):
        component = thing["metadata"]["labels"].get(_COMPONENT, "")
        if components and component not in components:
            continue
        waiting = kube.rollout(thing)
        if waiting:
            return f"{component}: {waiting}"
    return None


def model(cluster: Kube, wanted: str | None) -> str | None:
    """What the InferenceService waits for until it serves the wanted version."""
    found = cluster.find(kube.INFERENCE_SERVICES, INFERENCE_SERVICE)
    if found is None:
        return f"there is no InferenceService {INFERENCE_SERVICE}"
    version = assigned_version(found)
    if version is None:
        return "the promoter has not given it a model yet"
    if wanted is not None and version != wanted:
        return f"it has version {version}, the champion is {wanted}"
    if kube.condition(found, "Ready") != "True":
        return kube.why(found)
    # KServe has called a service ready while its Deployment was still rolling.
    for deployment in cluster.list(kube.DEPLOYMENTS, labels=_SERVED):
        waiting = kube.rollout(deployment)
        if waiting:
            return waiting
    return None


def assigned_version(service: Object) -> str | None:
    """The model version that the promoter has given to the InferenceService."""
    version = (service["metadata"].get("annotations") or {}).get(VERSION_ANNOTATION)
    return str(version) if version else None


def failed_runs(cluster: Kube) -> dict[str, str]:
    """CronJobs of ours whose newest run has failed, and the Job that this run was."""
    ours = {job["metadata"]["name"] for job in cluster.list(kube.CRON_JOBS, labels=_OURS)}
    newest: dict[str, Object] = {}
    for job in sorted(
        cluster.list(kube.JOBS), key=lambda job: job["metadata"]["creationTimestamp"]
    ):
        for owner in job["metadata"].get("ownerReferences") or ():
            if owner["kind"] == "CronJob" and owner["name"] in ours:
                newest[owner["name"]] = job
    return {
        name: str(job["metadata"]["name"])
        for name, job in newest.items()
        if kube.condition(job, "Failed") == "True"
    }


def all_parts(cluster: Kube) -> Iterator[Part]:
    """Every part, the platform's first."""
    if found := cluster.list(kube.KAFKAS):
        yield Part(
            "kafka", kafka(cluster), str((found[0].get("status") or {}).get("kafkaVersion", ""))
        )
    else:
        yield Part("kafka", "not installed", "")
    if found := cluster.list(kube.CLUSTERS):
        image = str(
            (found[0].get("status") or {}).get("image", found[0]["spec"].get("imageName", ""))
        )
        yield Part("postgres", postgres(cluster), _tag(image))
    else:
        yield Part("postgres", "not installed", "")
    for thing in _workloads(cluster):
        component = thing["metadata"]["labels"].get(_COMPONENT, thing["metadata"]["name"])
        image = thing["spec"]["template"]["spec"]["containers"][0]["image"]
        yield Part(component, kube.rollout(thing), _tag(image))
    service = cluster.find(kube.INFERENCE_SERVICES, INFERENCE_SERVICE)
    if service is None:
        yield Part(PREDICTOR, "not installed", "")
    else:
        served = cluster.list(kube.DEPLOYMENTS, labels=_SERVED)
        images = [d["spec"]["template"]["spec"]["containers"][0]["image"] for d in served]
        yield Part(PREDICTOR, model(cluster, None), _tag(images[0]) if images else "")


def _workloads(cluster: Kube) -> list[Object]:
    resources: tuple[Resource, ...] = (kube.DEPLOYMENTS, kube.STATEFUL_SETS)
    return [
        thing
        for resource in resources
        for thing in cluster.list(resource, NAMESPACE, _OURS)
        # The model server's Deployment is KServe's: the InferenceService speaks for it.
        if "serving.kserve.io/inferenceservice" not in thing["metadata"]["labels"]
    ]


def _custom(found: list[Object]) -> str | None:
    for thing in found:
        if kube.condition(thing, "Ready") != "True":
            return f"{thing['kind']} {thing['metadata']['name']}: {kube.why(thing)}"
    return None


def _tag(image: str) -> str:
    name = image.split("@")[0].rsplit("/", 1)[-1]
    return name.partition(":")[2]
