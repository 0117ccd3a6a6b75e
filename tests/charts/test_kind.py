"""kind-config.yaml makes the cluster that the kind profile is written for."""

import yaml

from tests.charts.rendering import KUBERNETES, everything
from tests.tools import ROOT, versions


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


def _nodes() -> list[dict]:
    return yaml.safe_load((ROOT / "kind-config.yaml").read_text())["nodes"]
