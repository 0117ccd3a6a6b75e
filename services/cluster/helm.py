"""Helm, versions 3 and 4: charts rendered, installed and removed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from services.cluster.command import run
from services.cluster.kube import SECRETS, Kube
from services.cluster.versions import versions


@dataclass(frozen=True)
class Release:
    """One installation of a chart."""

    name: str
    chart: str
    """A folder, an oci:// address, or an https:// repository with the chart's name at its end."""
    namespace: str
    version: str = ""
    values: Sequence[Path] = ()
    settings: dict[str, str] = field(default_factory=dict)
    """Single values that come from this run; never a secret."""

    @property
    def _source(self) -> list[str]:
        if not self.chart.startswith("https://"):
            source = [self.chart]
        else:
            repository, _, chart = self.chart.rpartition("/")
            source = [chart, "--repo", repository]
        return source + (["--version", self.version] if self.version else [])

    @property
    def _values(self) -> list[str]:
        files = [argument for path in self.values for argument in ("--values", str(path))]
        # As strings: a tag of digits alone is no number.
        single = [f"{name}={value}" for name, value in self.settings.items()]
        return files + [argument for value in single for argument in ("--set-string", value)]


def version() -> tuple[int, int]:
    """Of the Helm on this machine: major and minor."""
    found = re.search(r"v(\d+)\.(\d+)", run("helm", "version", "--template", "{{.Version}}"))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def render(release: Release) -> list[dict[str, Any]]:
    """The chart's objects; raises when the chart's schema refuses a value."""
    return [document for document in yaml.safe_load_all(template(release)) if document]


def crds(release: Release) -> str:
    """The CRDs that a chart keeps beside its templates, where no upgrade reaches them."""
    return run("helm", "show", "crds", *release._source)


def template(release: Release) -> str:
    """The chart's objects as text, for the Kubernetes of our kind cluster: Helm's own guess depends
    on how it was built.
    """
    kubernetes = versions()["KIND_NODE_IMAGE"].partition(":")[2].partition("@")[0]
    return run(
        *("helm", "template", release.name, *release._source, *release._values),
        *("--namespace", release.namespace, "--kube-version", kubernetes),
    )


def apply(kube: Kube, release: Release) -> None:
    """Installs or upgrades; waiting is the caller's matter."""
    _unlock(kube, release)
    arguments = ["helm", "upgrade", "--install", release.name, *release._source, *release._values]
    arguments += ["--kube-context", kube.context, "--namespace", release.namespace]
    arguments += ["--create-namespace"]
    if version()[0] >= 4:
        # Controllers own fields too, such as a webhook's caBundle; Helm 3 has always written over
        # a difference.
        arguments += ["--server-side=true", "--force-conflicts"]
    run(*arguments)


def is_current(kube: Kube, release: Release) -> bool:
    """Whether the very chart and values are deployed already."""
    scope = ["--kube-context", kube.context, "--namespace", release.namespace]
    listed = run("helm", "list", *scope, "--filter", f"^{release.name}$", "--output", "yaml")
    found = yaml.safe_load(listed)
    if not found or found[0]["status"] != "deployed":
        return False
    if not found[0]["chart"].endswith(f"-{release.version}"):
        return False
    values = run("helm", "get", "values", release.name, *scope, "--output", "yaml")
    deployed = yaml.safe_load(values)
    wanted: dict[str, Any] = {}
    for path in release.values:
        wanted |= yaml.safe_load(path.read_text()) or {}
    return not release.settings and (deployed or {}) == wanted


def installed(kube: Kube, namespace: str) -> dict[str, str]:
    """Release name to status."""
    secrets = kube.list(SECRETS, namespace, "owner=helm")
    newest = sorted(secrets, key=lambda secret: int(secret["metadata"]["labels"]["version"]))
    return {
        secret["metadata"]["labels"]["name"]: secret["metadata"]["labels"]["status"]
        for secret in newest
    }


def remove(context: str, name: str, namespace: str, seconds: int) -> None:
    """Uninstalls and waits; without the release nothing happens."""
    run(
        *("helm", "uninstall", name, "--kube-context", context, "--namespace", namespace),
        *("--ignore-not-found", "--wait", "--timeout", f"{seconds}s"),
        seconds=seconds + 30,
    )


def _unlock(kube: Kube, release: Release) -> None:
    """Forgets a revision whose Helm was killed: Helm refuses every upgrade while it stands."""
    for secret in kube.list(SECRETS, release.namespace, f"owner=helm,name={release.name}"):
        if secret["metadata"]["labels"].get("status", "").startswith("pending"):
            kube.delete(SECRETS, secret["metadata"]["name"], release.namespace)
