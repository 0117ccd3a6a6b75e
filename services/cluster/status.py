"""The platform in a cluster, as one report. Called by the command line."""

import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from services.cluster import charts, kube, parts, preflight, registry, urls, warehouse
from services.cluster.errors import ClusterError
from services.cluster.kube import AwayError, Kube
from services.cluster.options import NAMESPACE, Options
from services.core.contract import CHALLENGER, CHAMPION

_MEASURED_SECONDS: Final = 3.0
"""Over which the rows a minute are measured."""
_CONSUMER: Final = "moodstream-consumer"


@dataclass(frozen=True)
class Report:
    """Everything on one page. None: it could not be found out."""

    context: str
    parts: list[parts.Part]
    lag: int | None
    """Posts in Kafka that no consumer has committed, as KEDA sees it."""
    lag_is_capped: bool
    """KEDA tells no more lag than one consumer for each partition is for."""
    stored: int | None
    rows_a_minute: float | None
    newest_post_age_seconds: float | None
    dead_lettered: int | None
    open_alerts: int | None
    undelivered: int | None
    """Messages about alerts that are on their way or were given up."""
    lake_until: str | None
    """The newest day in the lake."""
    champion: str | None
    """The model version that has the alias."""
    rollout: str | None
    """What the promoter says about it."""
    served: str | None
    """The model version that the InferenceService has."""
    challenger: str | None
    """The version with that alias, and what the promoter says about it."""
    failed_runs: dict[str, str]
    """CronJobs whose newest run has failed, and the Job that this run was."""
    urls: dict[str, str]

    @property
    def ready(self) -> bool:
        """Whether every part is."""
        return bool(self.parts) and all(part.ready for part in self.parts)

    def summary(self) -> dict[str, Any]:
        """For a person, below the table of parts."""
        lag = f"{self.lag} or more" if self.lag_is_capped else self.lag
        served = f"{self.champion or 'none'}, served: {self.served or 'none'}"
        differ = f" (they differ; {self.rollout or 'the promoter has said nothing yet'})"
        return {
            "context": self.context,
            "lag": lag,
            "rows a minute": self.rows_a_minute,
            "posts stored": self.stored,
            "dead letters": self.dead_lettered,
            "newest post": _ago(self.newest_post_age_seconds),
            "open alerts": self.open_alerts,
            "messages not delivered": self.undelivered,
            "lake until": self.lake_until,
            "champion": served + ("" if self.champion == self.served else differ),
            "challenger": self.challenger,
            "failed jobs": ", ".join(self.failed_runs.values()) or None,
        } | self.urls

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        found = asdict(self)
        found["parts"] = {
            part.name: {"ready": part.ready, "waits_for": part.waiting_for, "version": part.version}
            for part in self.parts
        }
        return {"ready": self.ready} | found


def take(options: Options) -> Report:
    """The report; raises ClusterError when the cluster does not answer."""
    cluster, check = preflight.connect(options)
    if cluster is None:
        raise ClusterError(str(check))
    began, before = time.monotonic(), _figures(cluster)
    service = cluster.find(kube.INFERENCE_SERVICES, parts.INFERENCE_SERVICE)
    lag, capped = _lag(cluster)
    found = list(parts.all_parts(cluster))
    champion, rollout = _named(cluster, CHAMPION)
    challenger = _named(cluster, CHALLENGER)
    addresses = urls.of(cluster, options.target)
    time.sleep(max(0.0, _MEASURED_SECONDS - (time.monotonic() - began)))
    after, seconds = _figures(cluster), time.monotonic() - began
    return Report(
        cluster.context,
        found,
        lag,
        capped,
        after.stored if after else None,
        round((after.stored - before.stored) / seconds * 60, 1) if after and before else None,
        after.newest_age_seconds if after else None,
        after.dead_lettered if after else None,
        after.open_alerts if after else None,
        after.undelivered if after else None,
        after.lake_until if after else None,
        champion,
        rollout,
        parts.assigned_version(service) if service else None,
        ", ".join(filter(None, challenger)) or None,
        parts.failed_runs(cluster),
        addresses,
    )


def _ago(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.0f} s ago"


def _figures(cluster: Kube) -> warehouse.Figures | None:
    try:
        return warehouse.figures(cluster)
    except AwayError:
        return None


def _named(cluster: Kube, alias: str) -> tuple[str | None, str | None]:
    try:
        return registry.named(cluster, alias)
    except ClusterError:
        return None, None


def _lag(cluster: Kube) -> tuple[int | None, bool]:
    scaled = cluster.find(kube.SCALED_OBJECTS, _CONSUMER)
    names = ((scaled or {}).get("status") or {}).get("externalMetricNames") or []
    if scaled is None or not names:
        return None, False
    try:
        answer = cluster.get(
            f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{NAMESPACE}/{names[0]}",
            {"labelSelector": f"scaledobject.keda.sh/name={_CONSUMER}"},
        )
    except ClusterError:
        return None, False
    if not answer or not answer["items"]:
        return None, False
    lag = int(charts.quantity(answer["items"][0]["value"]))
    trigger = scaled["spec"]["triggers"][0]["metadata"]
    topic = cluster.find(kube.KAFKA_TOPICS, trigger["topic"])
    most = int(trigger["lagThreshold"]) * int(topic["spec"]["partitions"]) if topic else None
    return lag, most is not None and lag >= most
