"""kind: a cluster in Docker on this machine."""

import re
from typing import Final

from services.cluster.command import run
from services.cluster.options import KIND_CLUSTER, ROOT

_CONFIG: Final = ROOT / "kind-config.yaml"
_CREATE_SECONDS: Final = 900.0
"""The node's image is about 1 GB to download."""


def version() -> tuple[int, int]:
    """Of the kind on this machine."""
    found = re.search(r"v?(\d+)\.(\d+)", run("kind", "version", "--quiet"))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def exists() -> bool:
    """Whether our cluster is there."""
    return KIND_CLUSTER in run("kind", "get", "clusters", "--quiet").split()


def create() -> None:
    """Makes the cluster where there is none, and its context in kubectl's configuration."""
    if exists():
        # A configuration file that was lost or replaced gets its context back.
        run("kind", "export", "kubeconfig", "--name", KIND_CLUSTER)
        return
    run(
        *("kind", "create", "cluster", "--name", KIND_CLUSTER, "--config", str(_CONFIG)),
        *("--wait", "180s"),
        seconds=_CREATE_SECONDS,
    )


def delete() -> None:
    """Removes the cluster with everything in it; without it, nothing happens."""
    run("kind", "delete", "cluster", "--name", KIND_CLUSTER)
