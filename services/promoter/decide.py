"""What the promoter does next for one role, from what the registry says and what is served. Pure:
asks nobody, remembers nothing, so a promoter that starts in the middle of a rollout decides the
same.

The memory is in MLflow, where people look: each version's tag says what became of it
(`RolloutState`). A tag is written before the step that it names, so that a promoter that is killed
in between finds a step that is still to be done, never one that was forgotten.

    no state or replaced -> examined -> refused
                                     -> rolling out -> serving -> replaced
                                                    -> rolled back
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from services.core.contract import VERSION_ANNOTATION, RolloutState
from services.core.errors import MoodstreamError
from services.core.gate import Verdict

STARTED_ANNOTATION: Final = "moodstream.io/rollout-started"
"""On the InferenceService: when that version was set, ISO 8601, UTC."""
STOP_ANNOTATION: Final = "serving.kserve.io/stop"
"""KServe's own: "true" while an InferenceService is to have no pods."""

_PROXIED: Final = "mlflow-artifacts"
_FAILED_LOADS: Final = frozenset({"BlockedByFailedLoad", "InvalidSpec"})


class OutsideArtifactsError(MoodstreamError):
    """A version's files are not where the InferenceService may read."""


@dataclass(frozen=True)
class Model:
    """A version and the folder with its files, as it is served from."""

    version: str
    storage_uri: str


@dataclass(frozen=True)
class Wanted:
    """The version that the alias names."""

    model: Model
    state: RolloutState | None
    """What the promoter has last said about it in this role; None: nothing, or it is to be tried
    again.
    """


@dataclass(frozen=True)
class Rollout:
    """What has become of the newest pods; locally of the newest process."""

    version: str | None
    """That of the newest pod template."""
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
    """What is asked to be served, and how far that is."""

    uid: str
    generation: int
    version: str | None
    storage_uri: str | None
    started: datetime | None
    """When the version was set; None: never, or by somebody else."""
    stopped: bool
    """Whether it is to have no pods."""
    unready: str | None
    """Why KServe does not call it ready."""
    failed: str | None
    """Why its model cannot be loaded."""
    rollout: Rollout | None
    """None: KServe has made no Deployment yet."""

    def serves(self, model: Model) -> bool:
        """Whether this model is the one that is asked for."""
        return not self.stopped and (self.version, self.storage_uri) == (
            model.version,
            model.storage_uri,
        )


@dataclass(frozen=True)
class Observed:
    """Everything that a decision is made from."""

    wanted: Wanted | None
    """None: no version has the alias."""
    good: Model | None
    """The version that was last verified in this role."""
    champion: Model | None
    """The version that was last verified as champion: what a candidate is compared with."""
    rolling: tuple[Model, ...]
    """Versions whose rollout in this role has begun and not ended."""
    target: Target | None
    """None: it does not exist."""
    verdict: Verdict | None
    """The gate's, about the wanted version beside this champion; None: not examined yet."""
    smoke: str | None
    """Why the model that answers is not the wanted one; empty: it is; None: not asked."""
    now: datetime


@dataclass(frozen=True)
class Rest:
    """Nothing is to be done, and why."""

    reason: str


@dataclass(frozen=True)
class Wait:
    """Something is under way that is not the promoter's to do."""

    reason: str


@dataclass(frozen=True)
class Examine:
    """The gate is to look at the wanted version, beside the champion."""

    model: Model
    against: Model | None


@dataclass(frozen=True)
class Refuse:
    """The wanted version is not to be served, and why: that is to be said."""

    model: Model
    reason: str


@dataclass(frozen=True)
class Serve:
    """The model is to be set, and why."""

    model: Model
    replaces: str | None
    reason: str
    by_hand: bool = False
    """Whether it undoes what somebody else has set."""


@dataclass(frozen=True)
class Smoke:
    """Everything says that the model is served: ask it."""

    model: Model


@dataclass(frozen=True)
class Serving:
    """The model is served."""

    model: Model


@dataclass(frozen=True)
class GiveUp:
    """The rollout has failed, and why: that is to be said, and the next step goes back."""

    model: Model
    reason: str


@dataclass(frozen=True)
class Stop:
    """No model is to be served in this role."""

    reason: str


Step = Rest | Wait | Examine | Refuse | Serve | Smoke | Serving | GiveUp | Stop


def decide(observed: Observed, deadline: timedelta, *, optional: bool) -> Step:
    """The next step. `deadline`: from setting a model to its answering right. An optional role is
    stopped when it has no model; the other one keeps the last good one.
    """
    target, wanted, verdict = observed.target, observed.wanted, observed.verdict
    if target is None:
        return Wait("the InferenceService does not exist yet")
    if wanted is None:
        return _fall_back(observed, target, "no version has the alias", optional=optional)
    model = wanted.model
    if wanted.state is RolloutState.ROLLED_BACK:
        reason = f"version {model.version} was rolled back; set the alias anew to try it again"
        return _fall_back(observed, target, reason, optional=optional)
    if wanted.state is not RolloutState.SERVING:
        if verdict is None:
            return Examine(model, observed.champion if observed.champion != model else None)
        if not verdict.passed:
            if wanted.state is not RolloutState.REFUSED:
                return Refuse(model, verdict.reason)
            reason = f"version {model.version} is refused: {verdict.reason}"
            return _fall_back(observed, target, reason, optional=optional)
    if not target.serves(model):
        return _serve(observed, target, model, f"version {model.version} has the alias")
    unfinished = _unfinished(target, model.version) or observed.smoke
    if unfinished is None:
        return Smoke(model)
    if not unfinished:
        return Serving(model)
    if wanted.state is RolloutState.SERVING:
        return Wait(unfinished)
    return _wait(observed, target, model, unfinished, deadline, optional=optional)


def _fall_back(observed: Observed, target: Target, reason: str, *, optional: bool) -> Step:
    """What is served when the alias names nothing that may be."""
    if optional:
        return Rest(reason) if target.stopped else Stop(reason)
    good = observed.good
    if good is None or target.serves(good):
        return Rest(reason)
    return _serve(observed, target, good, reason)


def _serve(observed: Observed, target: Target, model: Model, reason: str) -> Serve:
    ours = {observed.good, *observed.rolling, observed.wanted and observed.wanted.model}
    found = Model(target.version or "", target.storage_uri or "")
    by_hand = not target.stopped and observed.good is not None and found not in ours
    return Serve(model, None if target.stopped else target.version, reason, by_hand)


def _wait(
    observed: Observed,
    target: Target,
    model: Model,
    unfinished: str,
    deadline: timedelta,
    *,
    optional: bool,
) -> Step:
    reason = target.failed or (target.rollout.stalled if target.rollout else None) or unfinished
    if target.started is None or observed.now - target.started <= deadline:
        return Wait(reason)
    if observed.good in (None, model) and not optional:
        return Wait(f"{reason}; it is past the deadline, and there is nothing to go back to")
    return GiveUp(model, f"not served within {deadline.total_seconds():.0f} s: {reason}")


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
    annotations = metadata.get("annotations", {})
    model = service["spec"].get("predictor", {}).get("model", {})
    ready = _condition(status, "Ready")
    states = status.get("modelStatus", {})
    failure = states.get("lastFailureInfo", {})
    return Target(
        uid=metadata["uid"],
        generation=metadata["generation"],
        version=annotations.get(VERSION_ANNOTATION),
        storage_uri=model.get("storageUri"),
        started=_time(annotations.get(STARTED_ANNOTATION)),
        stopped=annotations.get(STOP_ANNOTATION) == "true",
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


def _time(written: str | None) -> datetime | None:
    """None for what is no time with a zone: anybody may write an annotation."""
    try:
        found = datetime.fromisoformat(written or "")
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else None


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


def smoke_problem(
    version: str, served: str, expected: Sequence[Sequence[float]], found: Any, tolerance: float
) -> str:
    """Why an answer to the logged example is not the model's; empty when it is. `expected` and
    `found`: probabilities, [n, 3].
    """
    if served != version:
        return f"the predictor answers with version {served}"
    furthest = max(
        (
            abs(a - b)
            for row, right in zip(found, expected, strict=True)
            for a, b in zip(row, right, strict=True)
        ),
        default=0.0,
    )
    if furthest > tolerance:
        return f"its answer to the logged example is {furthest:.4f} off what was logged"
    return ""
