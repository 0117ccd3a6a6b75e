"""Helm takes the charts, and refuses what could not work with a sentence that helps."""

import base64
import gzip
import json
import re

import pytest

from tests.apiserver import ApiServer
from tests.charts.rendering import (
    CHARTS,
    NAMESPACE,
    Case,
    objects,
    profile,
    template,
    text,
)
from tests.tools import ROOT, output, run, versions

_RELEASE_LIMIT_BYTES = 1024 * 1024
_RELEASE_GOAL_BYTES = _RELEASE_LIMIT_BYTES // 4


def test_helm_finds_nothing_to_complain_about(case: Case) -> None:
    linted = run("helm", "lint", "--strict", "--quiet", *case.arguments)

    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_every_object_is_named_once(case: Case) -> None:
    names = [(item["kind"], item["metadata"]["name"]) for item in objects(case)]

    assert names
    assert sorted(names) == sorted(set(names))


def test_every_object_carries_our_labels_and_no_namespace(case: Case) -> None:
    for item in objects(case):
        metadata = item["metadata"]
        wanted = {
            "app.kubernetes.io/instance": case.chart,
            "app.kubernetes.io/managed-by": "Helm",
            "app.kubernetes.io/part-of": "moodstream",
        }

        assert wanted.items() <= metadata.get("labels", {}).items(), metadata["name"]
        assert "namespace" not in metadata, metadata["name"]


def test_a_release_fits_into_its_secret(case: Case) -> None:
    files = [path for path in case.folder.rglob("*") if path.is_file()]
    release = json.dumps(
        {
            "chart": {str(path): path.read_bytes().decode("latin-1") for path in files},
            "manifest": text(case),
        }
    )

    # As Helm stores it: compressed, and base64 twice over.
    stored = base64.b64encode(base64.b64encode(gzip.compress(release.encode())))

    assert len(stored) < _RELEASE_GOAL_BYTES


def test_no_chart_makes_a_secret(case: Case) -> None:
    assert [item["metadata"]["name"] for item in objects(case) if item["kind"] == "Secret"] == []


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("case_of", ["misspelt", "wrong type"])
def test_a_wrong_value_is_refused_by_its_name(chart: str, case_of: str) -> None:
    setting = "networkPolicy.enabeld=true" if case_of == "misspelt" else "networkPolicy.enabled=3"

    refused = run(*template(Case(chart, ()), "--set", setting))

    assert refused.returncode != 0
    assert "networkPolicy" in refused.stderr
    assert re.search("enabeld" if case_of == "misspelt" else "enabled", refused.stderr)


@pytest.mark.parametrize("chart", CHARTS)
def test_monitoring_is_off_unless_asked_for(chart: str) -> None:
    kinds = {item["kind"] for item in objects(Case(chart, ()))}

    assert not kinds & {"PodMonitor", "PrometheusRule", "ServiceMonitor"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["consumer.scaling.maxReplicas=7"], "partitions"),
        (["consumer.scaling.minReplicas=5"], "minReplicas"),
        (["consumer.drainSeconds=80"], "terminationGracePeriodSeconds"),
        (["producer.source=x"], "tokenSecret"),
        (["producer.source=x", "producer.x.tokenSecret=x-token"], "producer.topics"),
        (["producer.source=twitter"], "source"),
        (["producer.replay.path=/data/posts.csv"], "claim"),
        (["dashboard.service.nodePort=30800"], "NodePort"),
        (["dashboard.editorGroup=editors"], "trustedProxies"),
        (["dashboard.reading=everybody"], "reading"),
        (["airtable.tokenSecret=airtable-token"], "airtable.base"),
    ],
)
def test_values_that_contradict_each_other_are_refused(settings: list[str], named: str) -> None:
    refused = run(*template(Case("moodstream", ()), "--set", ",".join(settings)))

    assert refused.returncode != 0
    assert named in refused.stderr


def test_no_more_consumers_than_the_topic_has_partitions() -> None:
    for name in ("kind", "production", "small"):
        platform, _, moodstream = (objects(case) for case in profile(name))
        (topic,) = (
            item["spec"]["partitions"]
            for item in platform
            if item["kind"] == "KafkaTopic" and item["metadata"]["name"] == "posts"
        )
        (scaled,) = (item["spec"] for item in moodstream if item["kind"] == "ScaledObject")

        assert scaled["maxReplicaCount"] <= topic


@pytest.mark.parametrize("source", ["apps/v1/Deployment", "keda.sh/v1alpha1/ScaledObject"])
def test_the_number_of_consumers_is_keda_s_to_say(source: str) -> None:
    group, _, kind = source.rpartition("/")
    (found,) = (
        item
        for item in objects(Case("moodstream", ()))
        if (item["apiVersion"], item["kind"], item["metadata"]["name"])
        == (group, kind, "moodstream-consumer")
    )

    assert "replicas" not in found["spec"]


def test_the_served_model_is_the_promoter_s_to_say(case: Case) -> None:
    services = [item for item in objects(case) if item["kind"] == "InferenceService"]

    for service in services:
        assert not {"storageUri", "storage", "env"} & set(service["spec"]["predictor"]["model"])
        assert "moodstream.io/model-version" not in service["metadata"].get("annotations", {})


def test_third_party_images_are_those_of_versions_env() -> None:
    known = versions()
    for name in ("kind", "production"):
        for case in profile(name):
            for image in set(_images(objects(case))):
                tag = image.rpartition(":")[2].split("@")[0]
                ours = image.startswith("localhost/moodstream/")

                assert ours or any(tag in value for value in known.values()), image


def test_every_image_is_set_by_values() -> None:
    for chart in CHARTS:
        templates = (ROOT / "charts" / chart / "templates").rglob("*.yaml")
        literal = [
            line.strip()
            for path in templates
            for line in path.read_text().splitlines()
            if re.match(r"\s*-?\s*image(Name)?:", line) and "{{" not in line
        ]

        assert literal == []


def test_every_name_is_a_helper_s_or_a_value_s() -> None:
    for chart in CHARTS:
        for path in (ROOT / "charts" / chart / "templates").rglob("*.yaml"):
            names = re.findall(r"^metadata:\n  name: (.*)$", path.read_text(), re.MULTILINE)

            assert [name for name in names if "{{" not in name] == [], path


def test_addresses_follow_the_namespace(case: Case) -> None:
    moved = output(*template(case, "--namespace=elsewhere"))

    assert f".{NAMESPACE}.svc" not in moved
    assert "namespace: moodstream" not in moved


@pytest.mark.parametrize("chart", CHARTS)
def test_the_notes_say_what_is_unsafe(chart: str, api_server: ApiServer) -> None:
    folder, kubeconfig = ROOT / "charts" / chart, f"--kubeconfig={api_server.kubeconfig}"
    dry = ("helm", "install", chart, str(folder), kubeconfig, "--dry-run=client")

    safe = output(*dry).partition("NOTES:")[2]
    unsafe = output(*dry, "--set=networkPolicy.enabled=false").partition("NOTES:")[2]

    assert "unsafe" in safe
    assert "networkPolicy.enabled is false" not in safe
    assert "networkPolicy.enabled is false" in unsafe


@pytest.mark.parametrize("chart", ["moodstream", "platform"])
def test_the_notes_say_when_alerts_link_to_no_runbook(chart: str, api_server: ApiServer) -> None:
    folder, kubeconfig = ROOT / "charts" / chart, f"--kubeconfig={api_server.kubeconfig}"
    dry = ("helm", "install", chart, str(folder), kubeconfig, "--dry-run=client")
    dry = (*dry, "--set=monitoring.enabled=true")

    relative = output(*dry).partition("NOTES:")[2]
    absolute = output(*dry, "--set=monitoring.runbookUrl=https://example.com/runbooks")

    assert "runbookUrl is docs/runbooks" in relative
    assert "runbookUrl is" not in absolute.partition("NOTES:")[2]


def _images(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node[key] for key in ("image", "imageName") if isinstance(node.get(key), str)]
        return own + [image for child in node.values() for image in _images(child)]
    if isinstance(node, (list, tuple)):
        return [image for child in node for image in _images(child)]
    return []
