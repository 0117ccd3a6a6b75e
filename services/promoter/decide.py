"""What the promoter does next, from what the registry wants and what the cluster has. Pure: asks
nobody, remembers nothing, so a promoter that starts in the middle of a rollout decides the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from services.core.errors import MoodstreamError

VERSION_ANNOTATION: Final = "moodstream.io/model-version"
"""On the InferenceService, handed by KServe to its pods: the version that they say they are."""

_PROXIED: Final = "mlflow-artifacts"
_FAILED_LOADS: Final = frozenset({"BlockedByFailedLoad", "InvalidSpec"})


class OutsideArtifactsError(MoodstreamError):
    """A version's files are not where the InferenceService may read."""


@dataclass(frozen=True)
class Champion:
    """The version that the alias names."""

    version: str
    storage_uri: str
    """Folder with its files, as KServe reads it."""


@dataclass(frozen=True)
class Rollout:
    """What has become of a Deployment's newest pod template."""

    version: str | None
    """That of the template."""
    observed: bool
    """Whether the numbers are about the newest template."""
    wanted: int
    total: int
    updated: int
    available: int
    stalled: str | None
    """Why Kubernetes has stopped waiting for it."""


@dataclass(frozen=True)
class Target:
    """The InferenceService as it is."""

    uid: str
    generation: int
    version: str | None
    storage_uri: str | None
    unready: str | None
    """Why KServe does not call it ready."""
    failed: str | None
    """Why its model cannot be loaded."""
    rollout: Rollout | None
    """None: KServe has made no Deployment yet."""


@dataclass(frozen=True)
class Rest:
    """Nothing is to be done, and why."""

    reason: str


@dataclass(frozen=True)
class Promote:
    """The InferenceService is to serve another version."""

    champion: Champion
    target: Target


@dataclass(frozen=True)
class Wait:
    """The rollout is not complete, and why."""

    reason: str


@dataclass(frozen=True)
class Stalled:
    """The rollout will not complete by itself, and why."""

    reason: str
    target: Target


@dataclass(frozen=True)
class Verify:
    """Everything says that the champion is served: ask the predictor itself."""

    champion: Champion
    target: Target


Step = Rest | Promote | Wait | Stalled | Verify


def decide(champion: Champion | None, target: Target | None) -> Step:
    """The next step. Without a champion nothing changes: what is served stays served."""
    if target is None:
        return Wait("the InferenceService does not exist yet")
    if champion is None:
        return Rest("no version has the alias")
    if (target.version, target.storage_uri) != (champion.version, champion.storage_uri):
        return Promote(champion, target)
    unfinished = _unfinished(target, champion.version)
    if unfinished is None:
        return Verify(champion, target)
    stalled = target.failed or (target.rollout.stalled if target.rollout else None)
    return Stalled(stalled, target) if stalled else Wait(unfinished)


def _unfinished(target: Target, version: str) -> str | None:
    """KServe has called an InferenceService ready before its pods were replaced, so the Deployment
    counts as well: https://github.com/kserve/kserve/issues/4626.
    """
    rollout = target.rollout
    if rollout is None or rollout.version != version or not rollout.observed:
        return "KServe has not begun the rollout yet"
    if rollout.updated < rollout.wanted:
        return f"{rollout.updated} of {rollout.wanted} pods have been made"
    if rollout.available < rollout.updated:
        return f"{rollout.available} of {rollout.updated} pods are available"
    if rollout.total > rollout.updated:
        return f"{rollout.total - rollout.updated} pods of the version before are still there"
    return target.unready


def target_of(service: Mapping[str, Any], deployment: Mapping[str, Any] | None) -> Target:
    """Reads the InferenceService and its Deployment, as the API server gives them."""
    metadata, status = service["metadata"], service.get("status", {})
    model = service["spec"].get("predictor", {}).get("model", {})
    ready = _condition(status, "Ready")
    states = status.get("modelStatus", {})
    failure = states.get("lastFailureInfo", {})
    return Target(
        uid=metadata["uid"],
        generation=metadata["generation"],
        version=metadata.get("annotations", {}).get(VERSION_ANNOTATION),
        storage_uri=model.get("storageUri"),
        unready=None
        if ready.get("status") == "True"
        else _sentence("the InferenceService is not ready", ready),
        failed=_sentence("the model cannot be loaded", failure)
        if states.get("transitionStatus") in _FAILED_LOADS
        else None,
        rollout=None if deployment is None else _rollout_of(deployment),
    )


def _rollout_of(deployment: Mapping[str, Any]) -> Rollout:
    metadata, spec = deployment["metadata"], deployment["spec"]
    status = deployment.get("status", {})
    progress = _condition(status, "Progressing")
    return Rollout(
        version=spec["template"]["metadata"].get("annotations", {}).get(VERSION_ANNOTATION),
        observed=status.get("observedGeneration", 0) >= metadata["generation"],
        wanted=spec["replicas"],
        total=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        available=status.get("availableReplicas", 0),
        stalled=_sentence("the rollout does not progress", progress)
        if progress.get("status") == "False"
        else None,
    )


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found = (each for each in status.get("conditions", ()) if each["type"] == kind)
    return next(found, {})


def _sentence(what: str, details: Mapping[str, Any]) -> str:
    """With the last line of a message: that of a failed load is a traceback."""
    message = details.get("message", "").strip().splitlines()[-1:]
    return ": ".join(filter(None, [what, details.get("reason"), *message]))


def storage_uri(download_uri: str, artifact_root: str) -> str:
    """Where KServe finds the files that MLflow's server gives out under `download_uri`.

    The server proxies its artifact root as mlflow-artifacts:/PATH. Raises OutsideArtifactsError for
    files elsewhere: whoever may register a version may name any place as its source.
    """
    root = artifact_root.rstrip("/")
    parts = urlsplit(download_uri)
    if parts.scheme == _PROXIED:
        path = unquote(parts.path).strip("/")
    elif download_uri.startswith(f"{root}/"):
        path = download_uri.removeprefix(root).strip("/")
    else:
        raise OutsideArtifactsError(
            f"the version's files are at {download_uri}, outside {root}; "
            "register a model that was logged to this MLflow server"
        )
    if not path or ".." in path.split("/"):
        raise OutsideArtifactsError(f"{download_uri} names no folder in {root}")
    return f"{root}/{path}"
