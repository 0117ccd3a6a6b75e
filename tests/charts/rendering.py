"""Charts, the sets of values that they are tried with, and what Helm makes of them."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.tools import ROOT, documents, output

CHARTS = ("platform", "mlflow", "moodstream")
NAMESPACE = "moodstream"
PROFILES = ("kind", "production")
KUBERNETES = "1.35.0"
API_VERSIONS = (
    "barmancloud.cnpg.io/v1",
    "cert-manager.io/v1",
    "kafka.strimzi.io/v1",
    "keda.sh/v1alpha1",
    "monitoring.coreos.com/v1",
    "postgresql.cnpg.io/v1",
    "serving.kserve.io/v1alpha1",
    "serving.kserve.io/v1beta1",
)
"""What a cluster with every operator offers; `helm template` knows no cluster."""


@dataclass(frozen=True)
class Case:
    """One chart with one set of values."""

    chart: str
    values: tuple[Path, ...]

    def __str__(self) -> str:
        names = [str(path.relative_to(ROOT).with_suffix("")) for path in self.values]
        return f"{self.chart}:{'+'.join(names) or 'defaults'}"

    @property
    def folder(self) -> Path:
        """Where the chart is."""
        return ROOT / "charts" / self.chart

    @property
    def arguments(self) -> list[str]:
        """The chart and its values, as Helm takes them."""
        return [str(self.folder), *(f"--values={path}" for path in self.values)]


def profile(name: str) -> tuple[Case, ...]:
    """The three charts as one profile sets them; `small` is the node of the end-to-end tests."""
    folders = [ROOT / "manifests/profiles/kind", ROOT / "tests/e2e/values"]
    if name != "small":
        folders = [ROOT / "manifests/profiles" / name]
    return tuple(
        Case(chart, tuple(folder / f"{chart}.yaml" for folder in folders)) for chart in CHARTS
    )


def cases() -> list[Case]:
    """Every chart with its defaults, each of its ci/*.yaml and every profile."""
    own = [
        Case(chart, values)
        for chart in CHARTS
        for values in [
            (),
            *((path,) for path in sorted((ROOT / "charts" / chart / "ci").glob("*.yaml"))),
        ]
    ]
    return own + [case for name in (*PROFILES, "small") for case in profile(name)]


def template(case: Case, *arguments: str) -> tuple[str, ...]:
    """The command that renders a case as if every operator were there."""
    return (
        "helm",
        "template",
        case.chart,
        *case.arguments,
        f"--namespace={NAMESPACE}",
        f"--kube-version={KUBERNETES}",
        *(f"--api-versions={version}" for version in API_VERSIONS),
        *arguments,
    )


@cache
def text(case: Case) -> str:
    """What Helm renders."""
    return output(*template(case))


@cache
def objects(case: Case) -> tuple[dict, ...]:
    """What Helm renders, parsed."""
    return tuple(documents(text(case)))


def everything(name: str) -> tuple[dict, ...]:
    """The objects of all three charts in one profile."""
    return tuple(item for case in profile(name) for item in objects(case))
