"""The operators that the platform stands on: installed, or looked for, and asked for a first answer
before anything relies on them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from services.cluster import helm, kube
from services.cluster.command import run
from services.cluster.errors import ClusterError
from services.cluster.kube import Kube, Object, Resource
from services.cluster.options import ROOT, Profile
from services.cluster.versions import versions
from services.cluster.wait import until

_VALUES: Final = ROOT / "manifests" / "operators"
_READY_SECONDS: Final = 420.0
"""Pulling an operator's image over a slow line included."""
_TRIAL_NAMESPACE: Final = "default"
"""Where trial objects are tried, and never kept: it is in every cluster."""


@dataclass(frozen=True)
class Operator:
    """One operator, and how to see that it works."""

    name: str
    key: str
    """Its name in versions.env, in manifests/operators and as a release."""
    namespace: str
    serves: tuple[str, ...]
    """CRDs as name@version."""
    trial_of: Resource
    trial: Object = field(repr=False)
    """An object that its webhook, if it has one, must answer about."""
    separate_crds: bool = False
    """Whether the CRDs are outside what an upgrade of the chart reaches."""

    @property
    def release(self) -> helm.Release:
        """How it is installed."""
        prefix = self.key.upper().replace("-", "_")
        return helm.Release(
            self.key,
            versions()[f"{prefix}_CHART"],
            self.namespace,
            versions()[f"{prefix}_VERSION"],
            [_VALUES / f"{self.key}.yaml"],
        )


def _trial(api: str, kind: str, spec: dict[str, Any], **labels: str) -> Object:
    metadata = {"name": "moodstream-trial", "labels": labels}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}


CERT_MANAGER: Final = Operator(
    "cert-manager",
    "cert-manager",
    "cert-manager",
    ("certificates.cert-manager.io@v1", "issuers.cert-manager.io@v1"),
    kube.ISSUERS,
    _trial("cert-manager.io/v1", "Issuer", {"selfSigned": {}}),
)
STRIMZI: Final = Operator(
    "Strimzi",
    "strimzi",
    "strimzi-system",
    (
        "kafkas.kafka.strimzi.io@v1",
        "kafkanodepools.kafka.strimzi.io@v1",
        "kafkatopics.kafka.strimzi.io@v1",
        "kafkausers.kafka.strimzi.io@v1",
    ),
    kube.KAFKA_TOPICS,
    _trial(
        "kafka.strimzi.io/v1", "KafkaTopic", {"partitions": 1}, **{"strimzi.io/cluster": "none"}
    ),
    separate_crds=True,
)
CLOUDNATIVE_PG: Final = Operator(
    "CloudNativePG",
    "cloudnative-pg",
    "cnpg-system",
    (
        "clusters.postgresql.cnpg.io@v1",
        "databases.postgresql.cnpg.io@v1",
        "databaseroles.postgresql.cnpg.io@v1",
    ),
    kube.CLUSTERS,
    _trial("postgresql.cnpg.io/v1", "Cluster", {"instances": 1, "storage": {"size": "1Gi"}}),
)
KEDA: Final = Operator(
    "KEDA",
    "keda",
    "keda",
    ("scaledobjects.keda.sh@v1alpha1", "triggerauthentications.keda.sh@v1alpha1"),
    kube.SCALED_OBJECTS,
    _trial(
        "keda.sh/v1alpha1",
        "ScaledObject",
        {
            "scaleTargetRef": {"name": "moodstream-trial"},
            "triggers": [
                {
                    "type": "cron",
                    "metadata": {
                        "timezone": "UTC",
                        "start": "0 0 * * *",
                        "end": "1 0 * * *",
                        "desiredReplicas": "1",
                    },
                }
            ],
        },
    ),
)
KSERVE: Final = Operator(
    "KServe",
    "kserve",
    "kserve",
    (
        "inferenceservices.serving.kserve.io@v1beta1",
        "servingruntimes.serving.kserve.io@v1alpha1",
    ),
    kube.INFERENCE_SERVICES,
    _trial(
        "serving.kserve.io/v1beta1",
        "InferenceService",
        {"predictor": {"model": {"modelFormat": {"name": "trial"}, "storageUri": "s3://a/b"}}},
    ),
    separate_crds=True,
)
BARMAN: Final = Operator(
    "Barman Cloud plugin",
    "barman-plugin",
    "cnpg-system",
    ("objectstores.barmancloud.cnpg.io@v1",),
    kube.OBJECT_STORES,
    _trial(
        "barmancloud.cnpg.io/v1", "ObjectStore", {"configuration": {"destinationPath": "s3://a/"}}
    ),
)
_MONITORING: Final = "prometheus"
_CRD_KIND: Final = "CustomResourceDefinition"


def needed(profile: Profile) -> tuple[Operator, ...]:
    """What the platform's own objects are for; only production makes backups."""
    backups = (BARMAN,) if profile is Profile.PRODUCTION else ()
    return (STRIMZI, CLOUDNATIVE_PG, *backups, KEDA, KSERVE)


def installed(profile: Profile) -> tuple[Operator, ...]:
    """In the order of installation: the webhooks of others get their certificates from
    cert-manager.
    """
    return (CERT_MANAGER, *needed(profile))


def install(cluster: Kube, operator: Operator, say: Callable[[str], None]) -> None:
    """Installs or upgrades, and waits until it answers; where all is in place only asks."""
    release = operator.release
    if not helm.is_current(cluster, release):
        if operator.separate_crds:
            say(f"{operator.name} {release.version}: CRDs")
            # Too large for the annotation of a client-side apply.
            run(
                *("kubectl", "--context", cluster.context, "apply", "--server-side"),
                *("--force-conflicts", "--filename", "-"),
                text=crds(operator),
            )
        say(f"{operator.name} {release.version}: chart")
        helm.apply(cluster, release)
    until(operator.name, lambda: _starting(cluster, operator.namespace), _READY_SECONDS, say)
    until(operator.name, lambda: problem(cluster, operator), _READY_SECONDS, say)


def install_monitoring(cluster: Kube, say: Callable[[str], None]) -> None:
    """Prometheus and Grafana."""
    release = helm.Release(
        _MONITORING,
        versions()["PROMETHEUS_CHART"],
        "monitoring",
        versions()["PROMETHEUS_VERSION"],
        [_VALUES / f"{_MONITORING}.yaml"],
    )
    if not helm.is_current(cluster, release):
        say(f"Prometheus and Grafana: chart {release.version}")
        helm.apply(cluster, release)
    until("monitoring", lambda: _starting(cluster, "monitoring"), _READY_SECONDS, say)


def problem(cluster: Kube, operator: Operator) -> str | None:
    """Why the operator cannot be relied on; None when it answers about a trial object."""
    absent = missing(cluster, operator)
    if absent:
        return f"no {', '.join(absent)} in this cluster"
    trial = operator.trial
    try:
        cluster.create(operator.trial_of, trial, _TRIAL_NAMESPACE, dry_run=True)
    except ClusterError as exc:
        return f"does not answer about a trial {trial['kind']}: {exc}"
    return None


def missing(cluster: Kube, operator: Operator) -> list[str]:
    """CRDs that are not there, or not in the version that the platform speaks."""
    return [wanted for wanted in operator.serves if not _served(cluster, *wanted.split("@"))]


def foreign(cluster: Kube, operator: Operator) -> bool:
    """Whether somebody else has installed it: Helm would refuse to take it over."""
    first = operator.serves[0].split("@")[0]
    if cluster.find(kube.CRDS, first, None) is None:
        return False
    return operator.key not in helm.installed(cluster, operator.namespace)


def _served(cluster: Kube, name: str, version: str) -> bool:
    crd = cluster.find(kube.CRDS, name, None)
    return crd is not None and any(
        found["name"] == version and found["served"] for found in crd["spec"]["versions"]
    )


def _starting(cluster: Kube, namespace: str) -> str | None:
    for deployment in cluster.list(kube.DEPLOYMENTS, namespace):
        waiting = kube.rollout(deployment)
        if waiting:
            return f"{deployment['metadata']['name']}, {waiting}"
    return None


def crds(operator: Operator) -> str:
    """All its CRDs, as text; nothing else of its charts. Raises ClusterError without a network."""
    if operator is KSERVE:
        chart = helm.Release(
            "kserve-crd", versions()["KSERVE_CRD_CHART"], "kserve", versions()["KSERVE_VERSION"]
        )
        return helm.template(chart)
    if operator.separate_crds:
        return helm.crds(operator.release)
    rendered = helm.render(operator.release)
    return str(yaml.safe_dump_all(each for each in rendered if each["kind"] == _CRD_KIND))
