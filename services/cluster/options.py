"""What a person chooses about the cluster, and the names that everything here agrees on."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
NAMESPACE: Final = "moodstream"
KIND_CLUSTER: Final = "moodstream"
KIND_CONTEXT: Final = f"kind-{KIND_CLUSTER}"

HOST_PORTS: Final = {"dashboard": 18000, "MLflow": 15000, "inference": 18080, "Grafana": 13000}
"""Ports of this machine that kind-config.yaml maps into the cluster, by what answers there."""


class Target(StrEnum):
    """Which cluster."""

    KIND = "kind"
    CURRENT = "current"


class OperatorsFrom(StrEnum):
    """Who installs the operators."""

    INSTALL = "install"
    PRESENT = "present"


class Profile(StrEnum):
    """Which sizes: the folders of manifests/profiles."""

    KIND = "kind"
    PRODUCTION = "production"


LOADER_KIND: Final = "kind"
LOADER_NONE: Final = "none"


@dataclass(frozen=True)
class Options:
    """One choice of each."""

    target: Target = Target.KIND
    operators: OperatorsFrom = OperatorsFrom.INSTALL
    loader: str = ""
    """How images reach the nodes: kind, none (they are there, or are pulled), or a command that is
    called with the images' names. Empty: kind on a kind cluster, else none.
    """
    profile: Profile = Profile.KIND
    values: Path | None = None
    """A folder with platform.yaml, mlflow.yaml, moodstream.yaml: values above the profile's."""
    context: str | None = None
    """Of kubectl. None: our own on kind, else the current one."""
    monitoring: bool = False
    """Whether Prometheus and Grafana are installed too."""

    @property
    def image_loader(self) -> str:
        """The loader, with the default in place."""
        default = LOADER_KIND if self.target is Target.KIND else LOADER_NONE
        return self.loader or default

    @property
    def builds(self) -> bool:
        """Whether images are built here."""
        return self.image_loader != LOADER_NONE
