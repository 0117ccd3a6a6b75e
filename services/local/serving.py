"""Serves one role's model with local predictors: the promoter's counterpart of an InferenceService.

The listening socket is ours and outlives every predictor: the old one and the new one accept from
it side by side, so that a replacement fails no request.
"""

import json
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from services.core.contract import MODEL_NAME
from services.core.errors import MoodstreamError, TemporaryError
from services.local import workloads
from services.local.net import ADDRESS, fetch
from services.local.process import Process
from services.promoter.decide import Model, Rollout, Target

log = logging.getLogger(__name__)

Announce = Callable[[str], None]
"""Takes one line for people."""


class ForeignFilesError(MoodstreamError):
    """A model's files are not in the local MLflow's folder."""


@dataclass(frozen=True)
class _Predictor:
    model: Model
    process: Process
    url: str
    """At which it alone answers."""

    def answers(self) -> bool:
        """Whether its model is loaded and its sockets are accepted from."""
        return served_version(self.url) == self.model.version


@dataclass(frozen=True)
class _Leaving:
    process: Process
    until: float
    """When it is killed, in monotonic seconds."""


class LocalServing:
    """The predictors of one role. Belongs to one thread, which has to live as long as they do;
    `check` and `served` may be asked from any.
    """

    def __init__(
        self,
        name: str,
        home: Path,
        artifacts: Path,
        port: int,
        grpc_port: int,
        announce: Announce,
    ) -> None:
        """`name`: of the processes. `artifacts`: the local MLflow's folder, absolute."""
        self._name = name
        self._home = home
        self._artifacts = artifacts
        self._port = port
        self._grpc_port = grpc_port
        self._announce = announce
        self._socket: socket.socket | None = None
        self._started = 0
        self._generation = 0
        self._asked: Model | None = None
        self._since: datetime | None = None
        self._serving: _Predictor | None = None
        self._next: _Predictor | None = None
        self._leaving: list[_Leaving] = []

    @property
    def served(self) -> Model | None:
        """What is answered with; None before the first predictor is ready."""
        return self._serving.model if self._serving else None

    def check(self) -> None:
        """Raises PartError when the predictor that is to answer has died."""
        predictor = self._serving or self._next
        if predictor is not None:
            predictor.process.check()

    def ask_to_stop(self) -> None:
        """Sends the stop signal to each predictor and does not wait."""
        for predictor in filter(None, (self._serving, self._next)):
            predictor.process.ask_to_stop()

    def look(self) -> Target:
        """What was asked for, and how far that is. A new predictor that answers takes over: the old
        one is told to leave.
        """
        self._reap()
        new = self._next
        if new is not None and new.process.exit_status is None and new.answers():
            old, self._serving, self._next = self._serving, new, None
            self._dismiss(old)
        return self._target()

    def serve(self, model: Model, since: datetime) -> Target:
        """Starts a predictor for the model, unless one is there. Raises TemporaryError while the
        port is not free.
        """
        listening = self._listen()
        if self._next is not None and self._next.model != model:
            rejected, self._next = self._next, None
            self._dismiss(rejected)
        if self._next is None and self.served != model:
            self._next = self._start(model, listening)
        self._generation += 1
        self._asked, self._since = model, since
        return self.look()

    def stop(self) -> None:
        """Nothing is served from now on."""
        new, old = self._next, self._serving
        self._next = self._serving = self._asked = None
        self._generation += 1
        self._dismiss(new)
        self._dismiss(old)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def tell(self, kind: str, target: Target, reason: str, message: str) -> None:
        """Says it once: the promoter does not repeat itself while it runs."""
        self._announce(message)

    def close(self) -> None:
        """Stops everything; returns when it has ended."""
        self.stop()
        for leaving in self._leaving:
            leaving.process.stop()
        self._leaving.clear()

    def _target(self) -> Target:
        asked, serving, new = self._asked, self._serving, self._next
        predictors = [each for each in (serving, new) if each is not None and _lives(each)]
        updated = [each for each in predictors if each.model == asked]
        available = serving is not None and serving in updated
        return Target(
            uid=self._name,
            generation=self._generation,
            version=asked.version if asked else None,
            storage_uri=asked.storage_uri if asked else None,
            started=self._since,
            stopped=asked is None,
            unready=None if available else "the new predictor does not answer yet",
            failed=_last_words(new.process) if new is not None and not _lives(new) else None,
            rollout=Rollout(
                version=asked.version if asked else None,
                observed=True,
                wanted=1,
                total=len(predictors) + len(self._leaving),
                updated=len(updated),
                available=int(available),
                stalled=None,
            ),
        )

    def _listen(self) -> socket.socket:
        """The role's socket, bound; its predictors listen on it."""
        if self._socket is None:
            bound = socket.socket()
            # As servers do: what a stopped program left in TIME_WAIT does not count.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bound.bind((ADDRESS, self._port))
            except OSError as exc:
                bound.close()
                raise TemporaryError(f"port {self._port} of {self._name}: {exc}") from exc
            self._socket = bound
        return self._socket

    def _start(self, model: Model, listening: socket.socket) -> _Predictor:
        folder = self._folder(model)
        self._started += 1
        name = self._name if self._started == 1 else f"{self._name}-{self._started}"
        with socket.socket() as own:
            # Bound before it starts, so that it answers where nothing else can; it listens itself.
            own.bind((ADDRESS, 0))
            url = f"http://{ADDRESS}:{own.getsockname()[1]}"
            sockets = (listening.fileno(), own.fileno())
            command = workloads.predictor(name, folder, model.version, self._grpc_port, sockets)
            return _Predictor(model, Process(command, self._home), url)

    def _folder(self, model: Model) -> Path:
        root = f"{self._artifacts.as_uri()}/"
        if not model.storage_uri.startswith(root):
            raise ForeignFilesError(f"{model.storage_uri} is not in {root}")
        return self._artifacts / model.storage_uri.removeprefix(root)

    def _dismiss(self, predictor: _Predictor | None) -> None:
        if predictor is not None:
            predictor.process.ask_to_stop()
            until = time.monotonic() + predictor.process.command.stop_seconds
            self._leaving.append(_Leaving(predictor.process, until))

    def _reap(self) -> None:
        """Cleans up after those that are gone, or should be."""
        staying = []
        for leaving in self._leaving:
            if leaving.process.exit_status is None and time.monotonic() < leaving.until:
                staying.append(leaving)
            else:
                leaving.process.kill()
        self._leaving = staying


def served_version(url: str) -> str | None:
    """The version that the predictor at an address says it serves; None when it says nothing."""
    said = fetch(f"{url}/v2/models/{MODEL_NAME}")
    return str(json.loads(said)["versions"][0]) if said is not None else None


def _lives(predictor: _Predictor) -> bool:
    return predictor.process.exit_status is None


def _last_words(process: Process) -> str:
    """Why a predictor has died, in a sentence."""
    for line in reversed(process.log().splitlines()):
        try:
            event = json.loads(line)
            raised = event["exception"][0]
            return f"{raised['exc_type']}: {raised['exc_value']}"
        except (ValueError, LookupError, TypeError):
            continue
    return (
        f"the new predictor has ended (exit status {process.exit_status}); see {process.log_path}"
    )
