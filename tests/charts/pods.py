"""The pods that rendered objects lead to."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

LONG_RUNNING = {"Deployment", "StatefulSet", "InferenceService"}


@dataclass(frozen=True, eq=False)
class Pod:
    """A pod as its owner's template describes it."""

    name: str
    kind: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def component(self) -> str:
        """Which part of the platform it is."""
        return self.labels["app.kubernetes.io/component"]

    @property
    def long_running(self) -> bool:
        """Whether it is never done."""
        return self.kind in LONG_RUNNING

    @property
    def main(self) -> list[dict[str, Any]]:
        """The containers that do its work."""
        return self.spec["containers"]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All containers, those that prepare the work first."""
        return self.spec.get("initContainers", []) + self.main

    @property
    def ports(self) -> dict[int, str]:
        """The names of its ports by number."""
        return {
            port["containerPort"]: port.get("name", "")
            for container in self.containers
            for port in container.get("ports", [])
        }


def pods(objects: Iterable[dict[str, Any]]) -> list[Pod]:
    """One pod for each workload."""
    objects = list(objects)
    return [pod for item in objects for pod in _pods(item, objects)]


def _pods(item: dict[str, Any], objects: list[dict[str, Any]]) -> Iterator[Pod]:
    name, kind, spec = item["metadata"]["name"], item["kind"], item.get("spec", {})
    if kind == "Pod":
        yield Pod(name, kind, item["metadata"]["labels"], spec)
    elif kind == "InferenceService":
        yield _predictor(item, objects)
    else:
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template", {})
        if "containers" in template.get("spec", {}):
            yield Pod(name, kind, template["metadata"]["labels"], template["spec"])


def _predictor(service: dict[str, Any], objects: list[dict[str, Any]]) -> Pod:
    """As KServe puts it together: the runtime's pod, changed by the service's."""
    name, predictor = service["metadata"]["name"], dict(service["spec"]["predictor"])
    model = predictor.pop("model")
    (runtime,) = (
        item["spec"]
        for item in objects
        if item["kind"] == "ServingRuntime" and item["metadata"]["name"] == model["runtime"]
    )
    (container,) = runtime["containers"]
    labels = {
        **runtime.get("labels", {}),
        **service["metadata"].get("labels", {}),
        **predictor.get("labels", {}),
        "serving.kserve.io/inferenceservice": name,
        "component": "predictor",
    }
    served = {**container, "resources": model["resources"]}
    spec = {**runtime, **predictor, "containers": [served]}
    return Pod(name, "InferenceService", labels, spec)
