"""What our pods say. Called by the command line."""

from typing import Final

from services.cluster import preflight
from services.cluster.command import stream
from services.cluster.errors import ClusterError
from services.cluster.options import NAMESPACE, Options

_PODS_AT_ONCE: Final = 50
_LINES: Final = 20


def show(options: Options, component: str | None, follow: bool) -> int:
    """Writes the last lines of every pod to this terminal; the exit status."""
    cluster, check = preflight.connect(options)
    if cluster is None:
        raise ClusterError(str(check))
    labels = "app.kubernetes.io/part-of=moodstream"
    if component:
        labels += f",app.kubernetes.io/component={component}"
    return stream(
        *("kubectl", "--context", cluster.context, "--namespace", NAMESPACE, "logs", "--prefix"),
        *("--selector", labels, "--all-containers", "--ignore-errors", f"--tail={_LINES}"),
        *(f"--max-log-requests={_PODS_AT_ONCE}", f"--follow={str(follow).lower()}"),
    )
