"""The promoter in a cluster: one reconciler, in front of MLflow and KServe."""

import logging
from socket import gethostname
from threading import Event
from time import monotonic
from typing import Final

from services.core import lifecycle
from services.core.contract import CHALLENGER, CHAMPION
from services.core.errors import MoodstreamError
from services.core.gate import GateSettings
from services.core.health import HealthServer, Progress
from services.core.inference import InferenceClient
from services.core.settings import (
    ChallengerSettings,
    InferenceSettings,
    MLflowSettings,
    PostgresSettings,
    ServiceSettings,
    load,
)
from services.promoter import hook
from services.promoter.cluster import ServedByKServe
from services.promoter.examiner import Examiner
from services.promoter.journal import Journal
from services.promoter.lease import Lease
from services.promoter.reconcile import Promoter, Role, run
from services.promoter.registry import Registry
from services.promoter.settings import PromoterSettings

log = logging.getLogger(__name__)

_ANNOUNCE_AGAIN_SECONDS: Final = 60.0
_STUCK_SECONDS: Final = 600.0
"""Far above the deadlines of all the requests of one round together."""


def main() -> None:
    """Runs until SIGTERM."""
    lifecycle.run("promoter", _run)


def _run(service: ServiceSettings, stop: Event) -> None:
    """In a cluster. Another promoter may be there: the holder of the Lease acts, others wait."""
    settings = load(PromoterSettings)
    mlflow = load(MLflowSettings).url
    champion = load(InferenceSettings)
    challenger = load(ChallengerSettings).url
    served = {CHAMPION: (settings.inference_service, champion)}
    if challenger is not None:
        there = champion.model_copy(update={"url": challenger})
        served[CHALLENGER] = (settings.challenger_service, there)
    registry = Registry(mlflow, settings.model_name)
    promoter = Promoter(
        registry,
        Examiner(settings.examiner_url),
        Journal(load(PostgresSettings)),
        tuple(
            Role(
                alias,
                ServedByKServe(settings.namespace, name, optional=alias != CHAMPION),
                InferenceClient(where),
            )
            for alias, (name, where) in served.items()
        ),
        models_dir=settings.models_dir,
        artifact_root=settings.artifact_root,
        poll_seconds=settings.poll_seconds,
        deadline_seconds=settings.deadline_seconds,
        gate=load(GateSettings),
    )
    lease = Lease(settings.namespace, settings.lease, f"{gethostname()}:{service.port}")
    progress = Progress(_STUCK_SECONDS + settings.poll_seconds)
    wake = Event()
    secret = settings.webhook_secret
    posts = {}
    if secret is not None:
        posts[hook.PATH] = hook.Hook(secret.get_secret_value(), settings.model_name, wake)
    announce = _Announcement(registry, settings)

    def beat() -> None:
        progress.beat()
        announce()

    with HealthServer(
        service.bind,
        service.port,
        alive=progress.problem,
        ready=lambda: promoter.problem,
        posts=posts,
    ):
        run(promoter, stop, wake, beat, lease)
    lease.release()


class _Announcement:
    """Has MLflow call the promoter's webhook, as soon as MLflow can be told."""

    def __init__(self, registry: Registry, settings: PromoterSettings) -> None:
        self._registry = registry
        self._url, self._secret = settings.webhook_url, settings.webhook_secret
        self._not_before = 0.0

    def __call__(self) -> None:
        """Tries once, where it is still to be done and has not failed just now."""
        if self._url is None or self._secret is None or monotonic() < self._not_before:
            return
        try:
            self._registry.register_webhook(self._url, self._secret.get_secret_value())
        except MoodstreamError as exc:
            self._not_before = monotonic() + _ANNOUNCE_AGAIN_SECONDS
            log.warning("webhook.not_registered", extra={"problem": str(exc)})
        else:
            log.info("webhook.registered", extra={"url": self._url})
            self._url = None
