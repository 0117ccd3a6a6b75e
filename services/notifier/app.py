"""The notifier: judges the rules as time goes by, and tells people and machines."""

import logging
from collections.abc import Callable
from threading import Event, Thread

from services.core import lifecycle
from services.core.errors import TemporaryError
from services.core.health import HealthServer, Progress
from services.core.settings import PostgresSettings, ServiceSettings, load
from services.notifier.deliver import Deliverer
from services.notifier.settings import NotifierSettings, read_channels
from services.notifier.watch import Watch

log = logging.getLogger(__name__)

_DELIVER_SECONDS = 1.0
_SILENT_SECONDS = 300.0
_STOP_SECONDS = 20.0


class _Loop:
    """Calls one function again and again; knows why it last failed."""

    def __init__(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self.problem: str | None = "it has not begun"
        self._name, self._seconds, self._action = name, seconds, action
        self.progress = Progress(_SILENT_SECONDS)

    def run(self, stop: Event) -> None:
        while not stop.is_set():
            try:
                self._action()
            except TemporaryError as exc:
                if self.problem != str(exc):
                    log.warning(f"{self._name}.waits", extra={"reason": str(exc)})
                self.problem = str(exc)
            else:
                self.problem = None
            self.progress.beat()
            stop.wait(self._seconds)


def main() -> None:
    """Runs until SIGTERM."""
    lifecycle.run("notifier", _run)


def _run(service: ServiceSettings, stop: Event) -> None:
    settings, postgres = load(NotifierSettings), load(PostgresSettings)
    channels = read_channels(settings.channels)
    log.info("notifier.channels", extra={"channels": sorted(channels)})
    watch, deliverer = Watch(postgres), Deliverer(postgres, settings, channels)
    loops = [
        _Loop("watch", settings.judge_seconds, watch.round),
        _Loop("deliver", _DELIVER_SECONDS, deliverer.round),
    ]
    failed: list[BaseException] = []

    def follow(loop: _Loop) -> None:
        try:
            loop.run(stop)
        except BaseException as exc:
            failed.append(exc)
            stop.set()

    def first(check: str) -> str | None:
        found = (loop.progress.problem() if check == "alive" else loop.problem for loop in loops)
        return next((problem for problem in found if problem), None)

    threads = [Thread(target=follow, args=(loop,), daemon=True) for loop in loops]
    with HealthServer(
        service.bind, service.port, alive=lambda: first("alive"), ready=lambda: first("ready")
    ):
        for thread in threads:
            thread.start()
        lifecycle.wait(stop)
        for thread in threads:
            thread.join(_STOP_SECONDS)
    if failed:
        raise failed[0]
