"""The reconciler: brings what is served in step with the aliases in MLflow, or says there why not.
Knows neither Kubernetes nor processes: what serves a role is given to it.

Each round starts from what is there, in the registry and in the cluster, so it can be stopped and
started at any point, and a change that somebody else makes is seen at the next round.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Final, Protocol

from services.core.contract import CHAMPION, RolloutState
from services.core.errors import MoodstreamError
from services.core.gate import Check, Examination, GateSettings, Verdict, judge
from services.core.inference import InferenceClient
from services.promoter import metrics
from services.promoter.decide import (
    Examine,
    GiveUp,
    Model,
    Observed,
    OutsideArtifactsError,
    Refuse,
    Rest,
    Serve,
    Serving,
    Smoke,
    Step,
    Stop,
    Target,
    Wait,
    Wanted,
    decide,
    smoke_problem,
    storage_uri,
)
from services.promoter.examiner import Examiner
from services.promoter.journal import Journal
from services.promoter.lease import Lease
from services.promoter.registry import RefusedFilesError, Registered, Registry

log = logging.getLogger(__name__)

_AT_ONCE: Final = 0.0
_UNSEEN: Final = ""
_FOLLOW_SECONDS: Final = 0.5
"""Pause between two looks at a rollout that is under way."""
_STANDBY_SECONDS: Final = 5.0
_SLICE_SECONDS: Final = 0.25
_TOLERANCE: Final = 1e-3
"""How far a probability may be from what was logged; JSON's rounding stays far below it."""
_EXAMPLE: Final = "The new line is quick and clean, love it :)"


class Server(Protocol):
    """What serves one role. Every call raises TemporaryError while it cannot be asked."""

    def look(self) -> Target | None:
        """What is there; None when nothing is."""

    def serve(self, model: Model, since: datetime) -> Target:
        """Sets the model; returns what is there with it."""

    def stop(self) -> None:
        """No model is to be served."""

    def tell(self, kind: str, target: Target, reason: str, message: str) -> None:
        """Tells people there; once for each state and reason. `kind`: Normal or Warning."""


@dataclass(frozen=True)
class Role:
    """One alias, what serves its version, and where that answers."""

    alias: str
    server: Server
    predictor: InferenceClient

    @property
    def optional(self) -> bool:
        """Whether it may have no model."""
        return self.alias != CHAMPION


class Promoter:
    """Brings what is served in each role in step with the registry."""

    def __init__(
        self,
        registry: Registry,
        examiner: Examiner,
        journal: Journal,
        roles: tuple[Role, ...],
        *,
        models_dir: Path,
        artifact_root: str,
        poll_seconds: float,
        deadline_seconds: float,
        gate: GateSettings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """The champion's role comes first: the others are compared with it."""
        self.problem: str | None = "the registry was not asked yet"
        """Why the last round ended early."""
        self._registry = registry
        self._examiner = examiner
        self._journal = journal
        self._roles = roles
        self._models_dir = models_dir
        self._artifact_root = artifact_root
        self._poll_seconds = poll_seconds
        self._deadline = timedelta(seconds=deadline_seconds)
        self._gate = gate
        self._clock = clock
        self._champion: Model | None = None
        self._champion_alias: str | None = None
        self._examined: dict[Model, Examination] = {}
        self._verdicts: dict[tuple[Model, Model | None], Verdict] = {}
        self._aliased: dict[str, str | None] = {}
        self._again: dict[str, datetime | None] = {}
        self._since: dict[str, datetime] = {}
        self._said: dict[str, tuple[str, str]] = {}

    def round(self) -> float:
        """Looks, decides and acts once for each role; returns the pause until the next look, in
        seconds.
        """
        pauses = [self._poll_seconds]
        problem = None
        for role in self._roles:
            try:
                pauses.append(self._round(role))
            except MoodstreamError as exc:
                problem = str(exc)
            except Exception as exc:  # an answer that nobody foresaw; the next may be another
                log.exception("promoter.round_failed")
                problem = repr(exc)
            if problem is not None:
                metrics.FAILED_ROUNDS.inc()
                self._say(role.alias, "promoter.cannot_look", problem, logging.WARNING)
                break
        self.problem = problem
        self._journal.flush()
        return min(pauses) if problem is None else self._poll_seconds

    def _round(self, role: Role) -> float:
        observed = self._observe(role)
        step = decide(observed, self._deadline, optional=role.optional)
        if isinstance(step, Smoke):
            observed = replace(observed, smoke=self._smoke(role, step.model, observed.verdict))
            step = decide(observed, self._deadline, optional=role.optional)
        metrics.IN_STEP.labels(role.alias).set(isinstance(step, Rest | Serving))
        return self._act(role, observed, step)

    def _observe(self, role: Role) -> Observed:
        found = self._registry.observe(role.alias)
        for said in filter(None, (found.serving, found.wanted)):
            if said.state is not None and said.at is not None:
                # A promoter that was killed after it told MLflow has left the journal without it.
                self._journal.record(role.alias, said.version, said.state, said.reason, (), said.at)
        wanted, verdict = self._wanted(role, found.wanted)
        good = self._model(found.serving)
        if role.alias == CHAMPION:
            self._champion = good
            self._champion_alias = found.wanted.version if found.wanted else None
        if verdict is None and wanted is not None:
            verdict = self._verdicts.get((wanted.model, self._champion))
        return Observed(
            wanted=wanted,
            good=good,
            champion=self._champion,
            rolling=tuple(filter(None, map(self._model, (*found.rolling, *found.outdated)))),
            target=role.server.look(),
            verdict=verdict,
            smoke=None,
            now=self._clock(),
        )

    def _wanted(self, role: Role, found: Registered | None) -> tuple[Wanted | None, Verdict | None]:
        """And the verdict, where none needs to be made."""
        version, state = (found.version, found.state) if found else (None, None)
        metrics.state(role.alias, state)
        if self._aliased.get(role.alias, _UNSEEN) != version:
            self._since[role.alias] = self._clock()
            if role.alias in self._aliased:
                # Setting an alias is asking for it: what was refused or rolled back is tried again.
                self._again[role.alias] = found.at if found else None
                self._verdicts.clear()
        self._aliased[role.alias] = version
        if found is None or (
            role.optional and version in (self._champion_alias, _version(self._champion))
        ):
            return None, None
        again = found.at is not None and found.at == self._again.get(role.alias)
        if again and state is not RolloutState.SERVING:
            state = None
        try:
            uri = storage_uri(found.download_uri, self._artifact_root)
        except OutsideArtifactsError as exc:
            refused = Verdict((Check("source", False, str(exc)),), None)
            return Wanted(Model(found.version, found.download_uri), state), refused
        return Wanted(Model(found.version, uri), state), None

    def _model(self, found: Registered | None) -> Model | None:
        if found is None:
            return None
        try:
            return Model(found.version, storage_uri(found.download_uri, self._artifact_root))
        except OutsideArtifactsError:
            return None

    def _act(self, role: Role, observed: Observed, step: Step) -> float:
        match step:
            case Rest(reason):
                self._say(role.alias, "promoter.resting", reason)
                return self._poll_seconds
            case Wait(reason):
                self._say(role.alias, "promoter.waiting", reason)
                return _FOLLOW_SECONDS
            case Examine(model, against):
                self._examine(role, model, against)
            case Refuse(model, reason):
                checks = observed.verdict.checks if observed.verdict else ()
                self._tell(role, observed, model, RolloutState.REFUSED, reason, checks)
            case GiveUp(model, reason):
                self._tell(role, observed, model, RolloutState.ROLLED_BACK, reason)
            case Serve():
                self._serve(role, observed, step)
            case Serving(model):
                return self._serving(role, observed, model)
            case Stop(reason):
                self._stop(role, observed, reason)
        return _AT_ONCE

    def _examine(self, role: Role, model: Model, against: Model | None) -> None:
        self._say(role.alias, "promoter.examining", f"version {model.version}")
        candidate = self._examination(model)
        champion = self._examination(against) if against else None
        verdict = judge(candidate, champion, self._gate)
        self._verdicts[model, self._champion] = verdict

    def _examination(self, model: Model) -> Examination:
        """A version's files never change, so one look at them is enough."""
        if model not in self._examined:
            kept = {*filter(None, (self._champion_alias, _version(self._champion)))}
            try:
                self._registry.download(model.version, self._models_dir, kept)
            except RefusedFilesError as exc:
                return Examination((Check("artifact", False, str(exc)),), None, None)
            self._examined[model] = self._examiner.examine(model.version)
            metrics.EXAMINATIONS.inc()
        return self._examined[model]

    def _serve(self, role: Role, observed: Observed, step: Serve) -> None:
        model, now = step.model, observed.now
        for other in observed.rolling:
            if other != model:
                self._tell(
                    role, observed, other, RolloutState.REPLACED,
                    f"version {model.version} came before it was served",
                )  # fmt: skip
        said = f"version {model.version} replaces {_named(step.replaces)}: {step.reason}"
        if model != observed.good:
            checks = observed.verdict.checks if observed.verdict else ()
            self._tell(role, observed, model, RolloutState.ROLLING_OUT, said, checks)
        target = role.server.serve(model, now)
        metrics.PROMOTIONS.labels(role.alias).inc()
        self._say(role.alias, "promoter.promoted", said)
        if step.by_hand:
            hand = f"it was changed by hand, to {_named(step.replaces)}; {said}"
            self._event(role, target, "Warning", "EditedByHand", hand)
        else:
            self._event(role, target, "Normal", "ModelPromoted", said)

    def _serving(self, role: Role, observed: Observed, model: Model) -> float:
        if observed.wanted is not None and observed.wanted.state is not RolloutState.SERVING:
            if observed.good is not None and observed.good != model:
                replaced = (
                    f"version {model.version} serves since {observed.now:%Y-%m-%d %H:%M:%S} UTC"
                )
                self._tell(role, observed, observed.good, RolloutState.REPLACED, replaced)
            self._tell(
                role, observed, model, RolloutState.SERVING, f"version {model.version} is served"
            )
            since = self._since.pop(role.alias, None)
            if since is not None:
                seconds = (self._clock() - since).total_seconds()
                metrics.ALIAS_TO_SERVING.labels(role.alias).observe(seconds)
            return _AT_ONCE
        self._say(role.alias, "promoter.served", f"version {model.version} is served")
        return self._poll_seconds

    def _stop(self, role: Role, observed: Observed, reason: str) -> None:
        for model in filter(None, (observed.good, *observed.rolling)):
            self._tell(role, observed, model, RolloutState.REPLACED, reason)
        role.server.stop()
        self._say(role.alias, "promoter.stopped", reason)
        if observed.target is not None:
            self._event(role, observed.target, "Normal", "ModelStopped", reason)

    def _smoke(self, role: Role, model: Model, verdict: Verdict | None) -> str:
        example = verdict.example if verdict else None
        texts = example.texts if example else (_EXAMPLE,)
        try:
            said = role.predictor.version()
            if said != model.version:
                return f"the predictor says that it serves version {said}"
            scored = role.predictor.score(texts)
        except MoodstreamError as exc:
            return str(exc) or repr(exc)
        found = scored.probabilities.tolist()
        expected = example.probabilities if example else found
        return smoke_problem(model.version, scored.model_version, expected, found, _TOLERANCE)

    def _tell(
        self,
        role: Role,
        observed: Observed,
        model: Model,
        state: RolloutState,
        reason: str,
        checks: tuple[Check, ...] = (),
    ) -> None:
        """Writes the state where people look. In MLflow first: it is the promoter's memory."""
        self._registry.tell(model.version, role.alias, state, reason, observed.now)
        self._journal.record(role.alias, model.version, state, reason, checks, observed.now)
        if state in _COUNTERS:
            _COUNTERS[state].labels(role.alias).inc()
        bad = state in (RolloutState.REFUSED, RolloutState.ROLLED_BACK)
        detail = {"role": role.alias, "version": model.version, "reason": reason}
        log.log(
            logging.WARNING if bad else logging.INFO, f"model.{state.name.lower()}", extra=detail
        )
        event = _EVENTS.get(state)
        if event and observed.target is not None:
            said = f"version {model.version} is {state}: {reason}" if bad else reason
            self._event(role, observed.target, "Warning" if bad else "Normal", event, said)

    def _event(self, role: Role, target: Target, kind: str, reason: str, message: str) -> None:
        """A word to people; that it cannot be said must not hold up what it is about."""
        try:
            role.server.tell(kind, target, reason, message)
        except MoodstreamError as exc:
            log.warning("event.lost", extra={"reason": reason, "problem": str(exc)})

    def _say(self, alias: str, event: str, what: str, level: int = logging.INFO) -> None:
        """Logs what is new."""
        if self._said.get(alias) != (event, what):
            self._said[alias] = (event, what)
            log.log(level, event, extra={"role": alias, "detail": what})


_EVENTS: Final[Mapping[RolloutState, str]] = {
    RolloutState.REFUSED: "ModelRefused",
    RolloutState.ROLLED_BACK: "ModelRolledBack",
    RolloutState.SERVING: "ModelServed",
}


_COUNTERS: Final = {
    RolloutState.REFUSED: metrics.REFUSED,
    RolloutState.ROLLED_BACK: metrics.ROLLED_BACK,
}


def _version(model: Model | None) -> str | None:
    return model.version if model else None


def _named(version: str | None) -> str:
    return "nothing" if version is None else f"version {version}"


def run(
    promoter: Promoter,
    stop: Event,
    wake: Event,
    beat: Callable[[], None] = lambda: None,
    lease: Lease | None = None,
) -> None:
    """Goes round until `stop` is set, while the Lease is held; `wake` ends a pause early."""
    while not stop.is_set():
        pause = promoter.round() if lease is None or _leads(lease, promoter) else _STANDBY_SECONDS
        beat()
        while pause > 0 and not stop.is_set() and not wake.wait(min(pause, _SLICE_SECONDS)):
            pause -= _SLICE_SECONDS
        wake.clear()


def _leads(lease: Lease, promoter: Promoter) -> bool:
    try:
        held = lease.held()
    except MoodstreamError as exc:
        promoter.problem = str(exc)
        held = False
    else:
        if not held:
            promoter.problem = None
    metrics.LEADER.set(held)
    return held
