"""Start and stop of a process: one wrapper around a service's `main` and one around a job's, one
stop event set by SIGTERM and SIGINT.
"""

import json
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from threading import Event
from types import FrameType
from typing import Any, Final

from services.core import logs
from services.core.errors import MoodstreamError, SettingsError
from services.core.settings import ServiceSettings, load

log = logging.getLogger(__name__)

_AWAKE_SECONDS: Final = 1.0


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


def wait(stop: Event) -> None:
    """Until the event is set. Not `stop.wait()`: the kernel may give the signal to another thread,
    and Python then tells the main one, which has to be awake to hear it.
    """
    while not stop.wait(_AWAKE_SECONDS):
        pass


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


def job(name: str, body: Callable[[], Mapping[str, Any]]) -> None:
    """The whole main of a process that does one thing and ends: its result is one JSON line on
    standard output.

    Exits with 2 for wrong settings, 1 for anything else; our own errors are one line on standard
    error.
    """
    logs.configure("INFO", name)
    try:
        sys.stdout.write(f"{json.dumps(body(), default=str)}\n")
    except MoodstreamError as exc:
        sys.stderr.write(f"{name}: {exc}\n")
        raise SystemExit(2 if isinstance(exc, SettingsError) else 1) from None
    except Exception:
        log.exception("job.failed")
        raise SystemExit(1) from None
