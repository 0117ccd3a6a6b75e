"""checkov and kube-score find nothing in the rendered profiles but what skips.yaml explains."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.charts.pods import pods
from tests.charts.rendering import KUBERNETES, NAMESPACE, PROFILES, everything
from tests.tools import run

_SKIPS = yaml.safe_load(Path(__file__).with_name("skips.yaml").read_text())
_GOOD_GRADE = 10


class Finding(NamedTuple):
    """One check that one object fails."""

    check: str
    place: str
    """profile/Kind/name"""
    says: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profiles as they are installed: with their namespace and KServe's pod."""
    folder = tmp_path_factory.mktemp("rendered")
    for profile in PROFILES:
        rendered = [*everything(profile), *_served(profile)]
        placed = [
            {**item, "metadata": {**item["metadata"], "namespace": NAMESPACE}} for item in rendered
        ]
        (folder / f"{profile}.yaml").write_text(yaml.safe_dump_all(placed))
    return folder


def test_checkov_finds_nothing_unexplained(folder: Path) -> None:
    findings = list(_checkov(folder))

    assert _unexplained(findings, "checkov") == []


def test_kube_score_finds_nothing_unexplained(folder: Path) -> None:
    findings = [finding for profile in PROFILES for finding in _kube_score(folder, profile)]

    assert _unexplained(findings, "kube-score") == []


def _unexplained(findings: list[Finding], scanner: str) -> list[str]:
    skips = _SKIPS[scanner]
    idle = [skip["check"] for skip in skips if not any(_fits(skip, f) for f in findings)]
    found = [f for f in findings if not any(_fits(skip, f) for skip in skips)]
    return [f"{f.check} {f.place}: {f.says}" for f in found] + [
        f"{check} is skipped, and nothing needs it" for check in idle
    ]


def _fits(skip: dict[str, str], finding: Finding) -> bool:
    return skip["check"] == finding.check and bool(
        re.fullmatch(skip.get("objects", ".*"), finding.place)
    )


def _checkov(folder: Path) -> Iterator[Finding]:
    # Both switches keep it from the network.
    scanned = run(
        "checkov",
        f"--directory={folder}",
        "--framework=kubernetes",
        "--skip-download",
        "--download-external-modules=false",
        "--output=json",
        "--compact",
        "--quiet",
    )
    report = json.loads(scanned.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 0
    for failed in report["results"]["failed_checks"]:
        kind, _, name = failed["resource"].split(".", 2)
        profile = Path(failed["file_path"]).stem
        yield Finding(failed["check_id"], f"{profile}/{kind}/{name}", failed["check_name"])


def _kube_score(folder: Path, profile: str) -> Iterator[Finding]:
    # Checkov's CKV_K8S_11 is the same finding as the CPU limit's, with the reason in skips.yaml.
    scanned = run(
        "kube-score",
        "score",
        "--output-format=json",
        "--ignore-container-cpu-limit",
        "--enable-optional-test=container-seccomp-profile",
        f"--kubernetes-version=v{KUBERNETES.rpartition('.')[0]}",
        str(folder / f"{profile}.yaml"),
    )
    report = json.loads(scanned.stdout)
    assert report
    for item in report:
        kind, name = item["type_meta"]["kind"], item["object_meta"]["name"]
        for check in item["checks"]:
            if not check["skipped"] and check["grade"] < _GOOD_GRADE:
                says = "; ".join(comment["summary"] for comment in check["comments"] or [])
                yield Finding(check["check"]["id"], f"{profile}/{kind}/{name}", says)


def _served(profile: str) -> list[dict]:
    """KServe's Deployment for each InferenceService, so that it is looked at too."""
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": f"{pod.name}-predictor", "labels": pod.labels},
            "spec": {
                "replicas": pod.spec["minReplicas"],
                "strategy": pod.spec["deploymentStrategy"],
                "selector": {"matchLabels": {"app": f"isvc.{pod.name}-predictor"}},
                "template": {
                    "metadata": {"labels": {**pod.labels, "app": f"isvc.{pod.name}-predictor"}},
                    "spec": {key: value for key, value in pod.spec.items() if key in _POD_FIELDS},
                },
            },
        }
        for pod in pods(everything(profile))
        if pod.kind == "InferenceService"
    ]


_POD_FIELDS = {
    "automountServiceAccountToken",
    "containers",
    "enableServiceLinks",
    "initContainers",
    "securityContext",
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "topologySpreadConstraints",
    "volumes",
}
