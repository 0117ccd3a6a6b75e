"""Where a person opens what runs in the cluster."""

from typing import Final

from services.cluster import kube
from services.cluster.kube import Kube
from services.cluster.options import HOST_PORTS, NAMESPACE, Target

_SERVICES: Final = {"dashboard": "dashboard", "MLflow": "mlflow", "inference": "predictor"}


def of(cluster: Kube, target: Target) -> dict[str, str]:
    """Name to an address of this machine; on a cluster that is not kind's, to the command that
    makes one.
    """
    found = {}
    for name, service in _SERVICES.items():
        there = cluster.find(kube.SERVICES, service)
        if there is None:
            continue
        local, port = HOST_PORTS[name], there["spec"]["ports"][0]["port"]
        if target is Target.KIND:
            found[name] = f"http://localhost:{local}"
        else:
            found[name] = (
                f"kubectl --context {cluster.context} --namespace {NAMESPACE} port-forward "
                f"service/{service} {local}:{port}"
            )
    if target is Target.KIND and cluster.list(kube.DEPLOYMENTS, "monitoring"):
        found["Grafana"] = f"http://localhost:{HOST_PORTS['Grafana']}"
    return found
