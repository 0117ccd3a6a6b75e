"""Waiting for a condition, with a deadline and a word about what is still missing."""

import time
from collections.abc import Callable
from typing import Final

from services.cluster.errors import NotReadyError
from services.cluster.kube import AwayError

Condition = Callable[[], str | None]
"""None once it holds, else what it still waits for, in a few words."""

_POLL_SECONDS: Final = 2.0


def until(what: str, condition: Condition, seconds: float, say: Callable[[str], None]) -> None:
    """Returns once the condition holds; raises NotReadyError at the deadline. Every change of what
    it waits for is said. What is away is waited for too.
    """
    deadline = time.monotonic() + seconds
    said = None
    while (waiting_for := _tried(condition)) is not None:
        if waiting_for != said:
            said = waiting_for
            say(f"{what}: {waiting_for}")
        if time.monotonic() >= deadline:
            raise NotReadyError(what, waiting_for, seconds)
        time.sleep(_POLL_SECONDS)


def _tried(condition: Condition) -> str | None:
    try:
        return condition()
    except AwayError as exc:
        return str(exc)
