"""Waiting for a condition instead of sleeping."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable

_POLL_SECONDS = 0.05
_ANSWER_SECONDS = 10


def wait_until(
    condition: Callable[[], bool],
    seconds: float,
    what: str = "the condition",
    every: float = _POLL_SECONDS,
) -> None:
    """Returns as soon as the condition holds, which is asked `every` so many seconds; fails the
    test when it has not after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:.0f} s")
        time.sleep(every)


def status(address: str) -> int:
    """The HTTP status of a GET; 0 while nothing answers, or not in time."""
    try:
        with urllib.request.urlopen(address, timeout=_ANSWER_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code
    except (OSError, http.client.HTTPException):
        return 0
