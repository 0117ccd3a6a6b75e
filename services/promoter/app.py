"""The promoter: serves the version that the alias names in MLflow.

Each round starts from what is there, in the registry and in the cluster, so it can be stopped and
started at any point, and a change that somebody else makes is seen at the next round.
"""

import logging
from threading import Event
from typing import Final

from services.core import lifecycle
from services.core.errors import MoodstreamError
from services.core.health import HealthServer, Progress
from services.core.inference import InferenceClient
from services.core.settings import InferenceSettings, MLflowSettings, ServiceSettings, load
from services.promoter import metrics
from services.promoter.cluster import Cluster
from services.promoter.decide import (
    Champion,
    OutsideArtifactsError,
    Promote,
    Rest,
    Stalled,
    Step,
    Verify,
    Wait,
    decide,
    storage_uri,
)
from services.promoter.registry import Registry
from services.promoter.settings import PromoterSettings

log = logging.getLogger(__name__)

_FOLLOW_SECONDS: Final = 2.0
"""Pause between two looks at a rollout that is under way."""
_STUCK_SECONDS: Final = 180.0
"""Far above the deadlines of all the requests of one round together."""
_EXAMPLE: Final = "The new line is quick and clean, love it :)"


def main() -> None:
    """Runs until SIGTERM."""
    lifecycle.run("promoter", _run)


def _run(service: ServiceSettings, stop: Event) -> None:
    settings = load(PromoterSettings)
    promoter = Promoter(
        settings,
        Registry(load(MLflowSettings).url, settings.model_name),
        Cluster(settings.namespace, settings.inference_service),
        InferenceClient(load(InferenceSettings)),
    )
    progress = Progress(_STUCK_SECONDS + settings.poll_seconds)
    with HealthServer(
        service.bind, service.port, alive=progress.problem, ready=lambda: promoter.problem
    ):
        while not stop.is_set():
            settled = promoter.round()
            progress.beat()
            stop.wait(settings.poll_seconds if settled else _FOLLOW_SECONDS)


class Promoter:
    """One alias and one InferenceService."""

    def __init__(
        self,
        settings: PromoterSettings,
        registry: Registry,
        cluster: Cluster,
        predictor: InferenceClient,
    ) -> None:
        self.problem: str | None = "the registry was not asked yet"
        """Why the last round ended early."""
        self._settings = settings
        self._registry = registry
        self._cluster = cluster
        self._predictor = predictor
        self._said: tuple[str, str] | None = None

    def round(self) -> bool:
        """Looks, decides and acts once; whether it is enough to look again at the next poll."""
        try:
            settled = self._act(decide(self._champion(), self._cluster.look()))
        except OutsideArtifactsError as exc:
            self._say("promoter.refused", str(exc), logging.WARNING)
            settled = False
        except MoodstreamError as exc:
            self._fail(str(exc))
            return True
        except Exception as exc:  # an answer that nobody foresaw; the next round may get another
            log.exception("promoter.round_failed")
            self._fail(repr(exc))
            return True
        metrics.IN_STEP.set(settled)
        self.problem = None
        return settled

    def _champion(self) -> Champion | None:
        found = self._registry.named(self._settings.alias)
        if found is None:
            return None
        uri = storage_uri(found.download_uri, self._settings.artifact_root)
        return Champion(found.version, uri)

    def _act(self, step: Step) -> bool:
        match step:
            case Rest(reason):
                self._say("promoter.resting", reason)
                return True
            case Wait(reason):
                self._say("promoter.waiting", reason)
                return False
            case Stalled(reason, target):
                if self._say("promoter.stalled", reason, logging.WARNING):
                    self._cluster.warn(target, "RolloutStalled", reason)
                return False
            case Promote(champion, target):
                patched = self._cluster.promote(champion)
                metrics.PROMOTIONS.inc()
                said = (
                    f"version {champion.version} has the alias {self._settings.alias} and replaces "
                    f"{_named(target.version)}: {champion.storage_uri}"
                )
                self._say("promoter.promoted", said)
                self._cluster.note(patched, "ModelPromoted", said)
                return False
            case Verify(champion, target):
                served = self._predictor.score([_EXAMPLE]).model_version
                if served != champion.version:
                    self._say("promoter.waiting", f"the predictor answers with version {served}")
                    return False
                said = f"version {served} is served"
                if self._say("promoter.served", said):
                    self._cluster.note(target, "ModelServed", said)
                return True

    def _fail(self, problem: str) -> None:
        metrics.FAILED_ROUNDS.inc()
        self.problem = problem
        self._say("promoter.cannot_look", problem, logging.WARNING)

    def _say(self, event: str, what: str, level: int = logging.INFO) -> bool:
        """Logs what is new; whether it is."""
        if self._said == (event, what):
            return False
        self._said = (event, what)
        log.log(level, event, extra={"detail": what})
        return True


def _named(version: str | None) -> str:
    return "nothing" if version is None else f"version {version}"
