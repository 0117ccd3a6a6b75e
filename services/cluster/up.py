"""Brings the platform up, from nothing or from wherever an earlier run has stopped: every step
looks first at what is there. Called by the command line.
"""

import secrets
import time
from dataclasses import dataclass
from functools import partial
from typing import Final

from services.cluster import (
    charts,
    credentials,
    diagnosis,
    images,
    kind,
    kube,
    operators,
    parts,
    preflight,
    registry,
    urls,
    warehouse,
)
from services.cluster.errors import ClusterError, NotReadyError
from services.cluster.kube import AwayError, Kube, Object
from services.cluster.options import NAMESPACE, OperatorsFrom, Options, Target
from services.cluster.screen import Screen
from services.cluster.wait import Condition, until
from services.core.contract import INPUT_NAME, MODEL_NAME

STEPS: Final = 9
_PLATFORM_SECONDS: Final = 600.0
_ROLLOUT_SECONDS: Final = 300.0
_REGISTRY_SECONDS: Final = 60.0
_TRAINING_SECONDS: Final = 900.0
_MODEL_SECONDS: Final = 420.0
_POST_SECONDS: Final = 180.0
_LOG_LINES: Final = 25
_TRAINING: Final = "moodstream-training"
_OK: Final = 200


@dataclass(frozen=True)
class Result:
    """What is up now."""

    context: str
    model_version: str
    stored: int
    seconds: float
    urls: dict[str, str]


def run(options: Options, screen: Screen) -> Result:
    """All steps. Raises MoodstreamError with one clear message when it cannot go on; nothing is
    changed before the preflight has passed.
    """
    return _Up(options, screen).run()


class _Up:
    """One run."""

    def __init__(self, options: Options, screen: Screen) -> None:
        self._options = options
        self._screen = screen
        self._began = time.monotonic()
        self._cluster: Kube
        self._namespace = NAMESPACE
        """Where to look when something does not become ready."""

    def run(self) -> Result:
        try:
            return self._run()
        except NotReadyError as exc:
            self._explain(exc)
            raise

    def _run(self) -> Result:
        options, screen = self._options, self._screen
        with screen.step("preflight: tools, machine, cluster, values"):
            self._preflight()
        with screen.step("cluster"):
            self._connect()
        cluster = self._cluster
        with screen.step("operators: CRDs, cert-manager, Strimzi, CloudNativePG, KEDA, KServe"):
            self._operators()
        with screen.step(f"namespace {NAMESPACE} and its secrets"):
            level = credentials.create_namespace(cluster)
            if level != credentials.RESTRICTED:
                screen.note(f"Pod Security enforces only {level} there, as it was told before")
            for name in credentials.create_missing(cluster):
                screen.note(f"made the Secret {name}")
        with screen.step("images: built and loaded"):
            tag = images.provide(options.image_loader, screen.note)
        with screen.step("charts: platform, mlflow, moodstream"):
            self._charts(tag)
        with screen.step("training: a champion in the registry"):
            version = self._champion()
        with screen.step("model: served by KServe"):
            self._wait("InferenceService", partial(parts.model, cluster, version), _MODEL_SECONDS)
            self._wait("predictor", self._silent_predictor, _MODEL_SECONDS)
            self._wait("Deployments", partial(parts.workloads, cluster), _ROLLOUT_SECONDS)
        with screen.step("first post stored"):
            self._wait("warehouse", self._no_post, _POST_SECONDS)
        found = urls.of(cluster, options.target)
        for name, url in found.items():
            screen.say(f"{name}: {url}")
        screen.say("next: make status, make logs, make k9s, make e2e, make cluster-down")
        return Result(
            cluster.context,
            version,
            warehouse.figures(cluster).stored,
            round(time.monotonic() - self._began, 1),
            found,
        )

    def _preflight(self) -> None:
        checks = []
        for check in preflight.run(self._options):
            checks.append(check)
            self._screen.note(str(check))
        if not all(check.well for check in checks):
            raise preflight.PreflightError(checks)

    def _connect(self) -> None:
        if self._options.target is Target.KIND:
            self._screen.note("kind (the first time downloads the node's image)")
            kind.create()
        cluster, check = preflight.connect(self._options)
        if cluster is None:
            raise ClusterError(str(check))
        self._screen.note(check.detail)
        self._cluster = cluster

    def _operators(self) -> None:
        note = self._screen.note
        if self._options.operators is OperatorsFrom.PRESENT:
            for operator in operators.needed(self._options.profile):
                problem = operators.problem(self._cluster, operator)
                if problem:
                    raise ClusterError(f"{operator.name}: {problem}")
                note(f"{operator.name} answers")
        else:
            for operator in operators.installed(self._options.profile):
                self._namespace = operator.namespace
                operators.install(self._cluster, operator, note)
            self._namespace = NAMESPACE
        if self._options.monitoring:
            operators.install_monitoring(self._cluster, note)

    def _charts(self, tag: str | None) -> None:
        cluster = self._cluster
        self._install("platform", tag)
        credentials.tell_kserve(cluster)
        self._wait("PostgreSQL", partial(parts.postgres, cluster), _PLATFORM_SECONDS)
        self._wait(
            "object store", partial(parts.workloads, cluster, "object-store"), _ROLLOUT_SECONDS
        )
        self._wait("Kafka", partial(parts.kafka, cluster), _PLATFORM_SECONDS)
        self._install("mlflow", tag)
        self._wait("MLflow", partial(parts.workloads, cluster, "mlflow"), _ROLLOUT_SECONDS)
        self._install("moodstream", tag)
        # The consumer is not ready before there is a model, so its turn comes after that.
        ready_alone = partial(parts.workloads, cluster, "promoter", "producer")
        self._wait("Deployments", ready_alone, _ROLLOUT_SECONDS)

    def _install(self, chart: str, tag: str | None) -> None:
        self._screen.note(f"chart {chart}")
        charts.install(self._cluster, chart, self._options, tag)

    def _champion(self) -> str:
        self._wait("registry", self._silent_registry, _REGISTRY_SECONDS)
        version = registry.champion(self._cluster)
        if version is not None:
            self._screen.note(f"version {version} is there")
            return version
        job = self._training_job()
        self._wait("training", partial(self._unfinished, job), _TRAINING_SECONDS)
        version = registry.champion(self._cluster)
        if version is None:
            raise ClusterError(
                "training has registered no champion: give a version the alias champion in MLflow, "
                f"then run this again. Its log: {self._logs_of(job)}"
            )
        return version

    def _training_job(self) -> str:
        """The name of a run that is under way, else of a new one."""
        cluster = self._cluster
        for job in cluster.list(kube.JOBS):
            owner = (job["metadata"].get("ownerReferences") or [{}])[0]
            if owner.get("name") == _TRAINING and not _has_ended(job):
                return str(job["metadata"]["name"])
        cron_job = cluster.find(kube.CRON_JOBS, _TRAINING)
        if cron_job is None:
            raise ClusterError(
                f"there is no CronJob {_TRAINING}: is the chart moodstream installed?"
            )
        body = first_run(cron_job, secrets.token_hex(3))
        cluster.create(kube.JOBS, body)
        return str(body["metadata"]["name"])

    def _unfinished(self, job: str) -> str | None:
        found = self._cluster.find(kube.JOBS, job)
        if found is None:
            raise ClusterError(f"the Job {job} was removed while it ran; run this again")
        if kube.condition(found, "Failed") == "True":
            raise ClusterError(f"training failed (Job {job}):\n{self._tail(job)}")
        if kube.condition(found, "Complete") == "True":
            return None
        return f"Job {job} runs"

    def _tail(self, job: str) -> str:
        pods = self._cluster.list(kube.PODS, labels=f"batch.kubernetes.io/job-name={job}")
        said = [
            self._cluster.logs(pod["metadata"]["name"], container["name"], _LOG_LINES)
            for pod in pods[-1:]
            for container in pod["spec"]["containers"]
        ]
        return "".join(said) or f"its log is gone; see: {self._logs_of(job)}"

    def _logs_of(self, job: str) -> str:
        return f"kubectl --context {self._cluster.context} --namespace {NAMESPACE} logs job/{job}"

    def _silent_registry(self) -> None:
        registry.champion(self._cluster)

    def _silent_predictor(self) -> str | None:
        return silent_predictor(self._cluster)

    def _no_post(self) -> str | None:
        return None if warehouse.figures(self._cluster).stored else "no post is stored yet"

    def _wait(self, what: str, condition: Condition, seconds: float) -> None:
        until(what, condition, seconds, self._screen.note)

    def _explain(self, problem: NotReadyError) -> None:
        self._screen.say(f"{problem.what} has not become ready")
        try:
            for line in diagnosis.lines(self._cluster, self._namespace):
                self._screen.say(line)
        except ClusterError as exc:
            self._screen.say(str(exc))


def _has_ended(job: Object) -> bool:
    return "True" in (kube.condition(job, "Complete"), kube.condition(job, "Failed"))


def first_run(cron_job: Object, suffix: str) -> Object:
    """A Job as the CronJob itself would make it, now."""
    metadata = cron_job["metadata"]
    template = cron_job["spec"]["jobTemplate"]
    owner = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{metadata['name']}-{suffix}",
            "labels": (template.get("metadata") or {}).get("labels") or {},
            "annotations": {"cronjob.kubernetes.io/instantiate": "manual"},
            "ownerReferences": [owner],
        },
        "spec": template["spec"],
    }


def silent_predictor(cluster: Kube) -> str | None:
    """Why the model server gives no prediction; None when it gives one."""
    inputs = [{"name": INPUT_NAME, "shape": [1], "datatype": "BYTES", "data": ["what a great day"]}]
    path = f"/v2/models/{MODEL_NAME}/infer"
    try:
        status, answer = cluster.http(parts.PREDICTOR, path, {"inputs": inputs})
    except AwayError as exc:
        return str(exc)
    return None if status == _OK else f"it answers {status} to a smoke request: {answer}"
