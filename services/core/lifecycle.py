"""Start and stop of a service: one wrapper around `main`, one stop event set by SIGTERM and
SIGINT.
"""

import logging
import signal
import sys
from collections.abc import Callable
from threading import Event
from types import FrameType

from services.core import logs
from services.core.errors import SettingsError
from services.core.settings import ServiceSettings, load

log = logging.getLogger(__name__)


def stop_on_signals() -> Event:
    """An event that SIGTERM and SIGINT set. A second signal ends the process at once."""
    stop = Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def run(service: str, body: Callable[[ServiceSettings, Event], None]) -> None:
    """A service's whole main: settings, logs, signals, `body` until it returns, exit status.

    Exits with 0 after a clean stop, 2 for wrong settings (one line names the variable), 1 for
    anything else.
    """
    try:
        settings = load(ServiceSettings)
        logs.configure(settings.log_level, service)
        stop = stop_on_signals()
        log.info("service.started")
        body(settings, stop)
        log.info("service.stopped")
    except SettingsError as exc:
        sys.stderr.write(f"{service}: {exc}\n")
        raise SystemExit(2) from None
    except Exception:
        log.exception("service.failed")
        raise SystemExit(1) from None
