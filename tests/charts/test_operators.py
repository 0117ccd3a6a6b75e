"""What is taken from the operators' charts."""

from pathlib import Path

import pytest
import yaml

from services.cluster import operators
from tests.tools import tool

_CRD = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: %s}\n"


@pytest.mark.parametrize("operator", [operators.KEDA, operators.STRIMZI], ids=lambda each: each.key)
def test_of_an_operators_chart_only_the_crds_are_taken(
    operator: operators.Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(tool("helm")).parent), prepend=":")
    beside = tmp_path / ("crds" if operator.separate_crds else "templates")
    templates = tmp_path / "templates"
    for folder in {beside, templates}:
        folder.mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: operator\nversion: 1.0.0\n")
    (templates / "account.yaml").write_text(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n"
    )
    (beside / "crd.yaml").write_text(_CRD % "things.example.com")
    prefix = operator.key.upper()
    pinned = {
        **operators.versions(),
        f"{prefix}_CHART": str(tmp_path),
        f"{prefix}_VERSION": "1.0.0",
    }
    monkeypatch.setattr(operators, "versions", lambda: pinned)

    found = [each for each in yaml.safe_load_all(operators.crds(operator)) if each]

    assert [each["metadata"]["name"] for each in found] == ["things.example.com"]
