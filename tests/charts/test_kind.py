"""kind-config.yaml makes the cluster that the kind profile is written for."""

import yaml

from services.cluster.charts import quantity, requests
from tests.charts.rendering import KUBERNETES, everything
from tests.tools import ROOT, versions

_CPUS, _MEMORY_GIB = 4, 8
_OTHERS_CPUS, _OTHERS_GIB = 1.5, 1.5
"""The control plane's, the operators' and the node's own share."""


def test_the_node_image_is_the_one_of_versions_env() -> None:
    image = versions()["KIND_NODE_IMAGE"]

    assert [node["image"] for node in _nodes()] == [image]
    assert f":v{KUBERNETES.rpartition('.')[0]}." in image


def test_every_node_port_of_the_profile_is_mapped_to_this_machine_alone() -> None:
    (node,) = _nodes()
    asked = {
        port["nodePort"]
        for item in everything("kind")
        if item["kind"] == "Service"
        for port in item["spec"]["ports"]
        if "nodePort" in port
    }
    mapped = {each["containerPort"]: each for each in node["extraPortMappings"]}

    assert len(asked) == 3
    assert asked <= mapped.keys()
    assert {each["listenAddress"] for each in mapped.values()} == {"127.0.0.1"}


def test_everything_and_every_job_at_once_fit_into_the_node() -> None:
    rendered = everything("kind")
    cpus, memory = requests(list(rendered))
    for job in (item["spec"]["jobTemplate"]["spec"] for item in _of_kind("CronJob", rendered)):
        for container in job["template"]["spec"]["containers"]:
            asked = container["resources"]["requests"]
            cpus += job.get("parallelism", 1) * quantity(asked["cpu"])
            memory += job.get("parallelism", 1) * quantity(asked["memory"])

    assert cpus <= _CPUS - _OTHERS_CPUS
    assert memory / 2**30 <= _MEMORY_GIB - _OTHERS_GIB


def _of_kind(kind: str, rendered: tuple[dict, ...]) -> list[dict]:
    return [item for item in rendered if item["kind"] == kind]


def _nodes() -> list[dict]:
    return yaml.safe_load((ROOT / "kind-config.yaml").read_text())["nodes"]
