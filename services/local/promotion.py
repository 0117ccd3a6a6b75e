"""The promoter as a thread of the demo, with what it needs as local processes: the examiner and the
predictors of both roles.
"""

import logging
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Final

from services.core.contract import CHALLENGER, CHAMPION, MODEL_NAME
from services.core.gate import GateSettings
from services.core.inference import InferenceClient
from services.core.settings import load
from services.local import workloads
from services.local.mlflow import MLflow
from services.local.models import Models
from services.local.net import ADDRESS
from services.local.process import PartError, Process
from services.local.serving import LocalServing
from services.local.settings import LocalSettings
from services.local.workloads import Addresses
from services.promoter.examiner import Examiner
from services.promoter.journal import Journal
from services.promoter.reconcile import Promoter, Role
from services.promoter.registry import Registry

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 1.0
_DEADLINE_SECONDS: Final = 120.0
"""A predictor is up in a tenth of it, on a machine that has nothing else to do."""
_WAIT_SECONDS: Final = 0.1


class Promotion:
    """Serves what the aliases name, from `start` to `stop`.

    Its thread starts every child, and ends them before it ends itself: Linux would.
    """

    def __init__(
        self,
        settings: LocalSettings,
        mlflow: MLflow,
        addresses: Addresses,
        announce: Callable[[str], None],
    ) -> None:
        """`announce` takes one line for people, in any thread."""
        self._settings = settings
        self._mlflow = mlflow
        self._addresses = addresses
        self._announce = announce
        self._champion = self._serving(
            "predictor", settings.predictor_port, settings.predictor_grpc_port, "model"
        )
        self._challenger = self._serving(
            "challenger", settings.challenger_port, settings.challenger_grpc_port, "challenger"
        )
        inference = addresses.inference
        shadow = inference.model_copy(update={"url": addresses.challenger.url})
        self._roles = (
            Role(CHAMPION, self._champion, InferenceClient(inference)),
            Role(CHALLENGER, self._challenger, InferenceClient(shadow)),
        )
        self._examined = settings.home.absolute() / "examined"
        self._examiner: Process | None = None
        self._stop = Event()
        self._resting = False
        self._failed: BaseException | None = None
        self._thread = Thread(target=self._run, name="promoter", daemon=True)

    def start(self) -> None:
        """Returns at once."""
        self._thread.start()

    def wait_served(self, seconds: float) -> None:
        """Returns when the champion is served; raises PartError when it will not be."""
        deadline = time.monotonic() + seconds
        while self._champion.served is None:
            self.check()
            if self._resting:
                raise PartError(f"no champion is served: {self._refusal()}")
            if time.monotonic() > deadline:
                raise PartError(
                    f"no champion was served after {seconds:.0f} s; see demo.log and logs/ in "
                    f"{self._settings.home}"
                )
            time.sleep(_WAIT_SECONDS)

    def served(self) -> dict[str, str]:
        """Role to the version that is answered with, where there is one."""
        servings = {CHAMPION: self._champion, CHALLENGER: self._challenger}
        models = {role: serving.served for role, serving in servings.items()}
        return {role: model.version for role, model in models.items() if model is not None}

    def check(self) -> None:
        """Raises PartError when the promoter or a predictor that was to answer has died."""
        if not self._thread.is_alive():
            raise PartError("the promoter has ended; see demo.log") from self._failed
        self._champion.check()
        self._challenger.check()

    def ask_to_stop(self) -> None:
        """Has everything end, and does not wait."""
        self._stop.set()
        for serving in (self._champion, self._challenger):
            serving.ask_to_stop()
        if self._examiner is not None:
            self._examiner.ask_to_stop()

    def stop(self) -> None:
        """Returns when everything has ended."""
        self.ask_to_stop()
        if self._thread.ident is not None:
            self._thread.join()

    def _serving(self, name: str, port: int, grpc_port: int, said: str) -> LocalServing:
        return LocalServing(
            name,
            self._settings.home,
            self._mlflow.artifacts,
            port,
            grpc_port,
            lambda message: self._announce(f"{said}: {message}"),
        )

    def _run(self) -> None:
        try:
            promoter = self._promoter()
            while not self._stop.is_set():
                self._keep_examiner()
                pause = promoter.round()
                self._resting = promoter.problem is None and pause >= _POLL_SECONDS
                self._stop.wait(pause)
        except BaseException as exc:
            self._failed = exc
            log.exception("promotion.failed")
        finally:
            for serving in (self._champion, self._challenger):
                serving.close()
            if self._examiner is not None:
                self._examiner.stop()

    def _promoter(self) -> Promoter:
        self._examined.mkdir(parents=True, exist_ok=True)
        return Promoter(
            Registry(self._mlflow.url, MODEL_NAME),
            Examiner(f"http://{ADDRESS}:{self._settings.examiner_port}"),
            Journal(self._addresses.postgres),
            self._roles,
            models_dir=self._examined,
            artifact_root=self._mlflow.artifacts.as_uri(),
            poll_seconds=_POLL_SECONDS,
            deadline_seconds=_DEADLINE_SECONDS,
            gate=load(GateSettings),
        )

    def _keep_examiner(self) -> None:
        """A model that it does not survive must not end the demo."""
        if self._examiner is not None and self._examiner.exit_status is not None:
            log.warning("examiner.restarted", extra={"log": self._examiner.log_tail()})
            self._examiner.kill()
            self._examiner = None
        if self._examiner is None and not self._stop.is_set():
            command = workloads.examiner(self._settings, self._examined)
            self._examiner = Process(command, self._settings.home)

    def _refusal(self) -> str:
        versions = Models(self._mlflow.url).versions()
        found = next((each for each in versions if CHAMPION in each.aliases), None)
        if found is None:
            return "no version has the alias"
        return (
            f"version {found.version} is {found.state}: {found.reason}; train on better data "
            "(moodstream clean, then start anew), or lower MOODSTREAM_GATE_FLOOR"
        )
