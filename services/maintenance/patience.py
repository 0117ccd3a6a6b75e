"""Waiting for what is away, for a bounded time, without hiding what is waited for."""

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from services.core.errors import TemporaryError

log = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 1.0

T = TypeVar("T")


def patiently(
    action: Callable[[], T],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """The action's result, tried again while it raises TemporaryError and the time is not over.
    Each new reason is logged once; the last is raised.
    """
    deadline = clock() + seconds
    said = ""
    while True:
        try:
            return action()
        except TemporaryError as exc:
            if clock() >= deadline:
                raise
            if str(exc) != said:
                said = str(exc)
                log.warning("waiting", extra={"reason": said, "at_most_seconds": seconds})
        pause(_PAUSE_SECONDS)
