"""Alerts and dashboards can be read, explained, and ask only for what is measured."""

import importlib
import json
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from prometheus_client import REGISTRY

from services.dashboard.app import DriftGauges
from services.dashboard.queries import Warehouse
from tests.tools import ROOT

ALERTS = sorted(ROOT.glob("charts/*/alerts/*.yaml"))
DASHBOARDS = sorted(ROOT.glob("charts/*/dashboards/*.json"))
_SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
    "info": ("_info",),
}
_OTHERS = re.compile(
    r"""up
    | ALERTS
    | kafka_(consumergroup|topic|server|network|controller|cluster|log|brokers)\w*
    | strimzi_\w+ | cnpg_\w+ | keda_\w+ | kubelet_volume_stats_\w+
    | kube_(pod|deployment|horizontalpodautoscaler|persistentvolumeclaim|job|cronjob)_\w+
    | container_(cpu_usage_seconds_total|memory_working_set_bytes)
    | process_(cpu_seconds_total|resident_memory_bytes)
    | request_(preprocess|predict|postprocess|explain)_seconds_(bucket|sum|count)
    """,
    re.VERBOSE,
)
"""Metrics of Kafka's exporters, the operators, Kubernetes and KServe's model server."""
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "group_left", "group_right"}


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """The names of all metrics of our services."""
    for path in (ROOT / "services").glob("*/metrics.py"):
        importlib.import_module(f"services.{path.parent.name}.metrics")
    warehouse = Mock(spec_set=Warehouse)
    warehouse.snapshot.return_value.drift = []
    return {
        family.name + suffix
        for family in (*REGISTRY.collect(), *DriftGauges(warehouse).collect())
        for suffix in _SUFFIXES.get(family.type, ("",))
    }


def test_there_are_alerts_and_dashboards() -> None:
    assert ALERTS
    assert {path.stem for path in DASHBOARDS} >= {"pipeline", "model", "kafka"}


@pytest.mark.parametrize("path", ALERTS, ids=lambda path: path.stem)
def test_an_alert_says_what_is_wrong_how_bad_it_is_and_what_to_do(path: Path) -> None:
    rule = yaml.safe_load(path.read_text())

    assert rule["alert"] == path.stem
    assert rule["expr"]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"]
    assert (ROOT / "docs/runbooks" / f"{path.stem}.md").exists()


def test_no_runbook_is_without_its_alert() -> None:
    runbooks = {path.stem for path in (ROOT / "docs/runbooks").glob("*.md")}

    assert runbooks - {"README"} == {path.stem for path in ALERTS}


@pytest.mark.parametrize("path", ALERTS, ids=lambda path: path.stem)
def test_an_alert_asks_only_for_metrics_that_exist(path: Path, exported: set[str]) -> None:
    asked = _metrics(yaml.safe_load(path.read_text())["expr"])

    assert asked
    assert _unknown(asked, exported) == set()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_asks_only_for_metrics_that_exist(path: Path, exported: set[str]) -> None:
    dashboard = json.loads(path.read_text())

    asked = {name for query in _queries(dashboard) for name in _metrics(query)}

    assert dashboard["title"]
    assert asked
    assert _unknown(asked, exported) == set()


def _queries(node: object) -> list[str]:
    if isinstance(node, list):
        return [query for child in node for query in _queries(child)]
    if not isinstance(node, dict):
        return []
    own = [node["expr"]] if isinstance(node.get("expr"), str) else []
    return own + [query for child in node.values() for query in _queries(child)]


def _unknown(asked: set[str], exported: set[str]) -> set[str]:
    return {name for name in asked - exported if not _OTHERS.fullmatch(name)}


def _metrics(query: str) -> set[str]:
    """The metrics of a PromQL expression: its words that are neither functions nor labels."""
    bare = re.sub(r'"[^"]*"', " ", query)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\$\w+", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*(?!\w*\s*\()", bare)
    return {word for word in words if word.lower() not in _WORDS}
