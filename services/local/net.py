"""Addresses and ports on this machine."""

import socket
import urllib.error
import urllib.request
from typing import Final

ADDRESS: Final = "127.0.0.1"
"""Everything local listens here alone."""
_ANSWER_SECONDS: Final = 5.0


def is_free(port: int) -> bool:
    """Whether a server can listen on the port."""
    with socket.socket() as probe:
        # As servers do: what a stopped program left in TIME_WAIT does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
        return True


def accepts(port: int) -> bool:
    """Whether something accepts connections on the port."""
    try:
        with socket.create_connection((ADDRESS, port), timeout=_ANSWER_SECONDS):
            return True
    except OSError:
        return False


def responds(url: str) -> bool:
    """Whether a local address answers 200."""
    return fetch(url) is not None


def problem(url: str) -> str | None:
    """What a service says at its readiness address, in one line; None when it is ready, or gone."""
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS):  # noqa: S310 - local
            return None
    except urllib.error.HTTPError as exc:
        with exc:
            return " ".join(exc.read().decode(errors="replace").split())
    except OSError:
        return None


def fetch(url: str) -> str | None:
    """The text that a local address answers with 200; None for any other answer, or none."""
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - local
            return str(answer.read().decode()) if answer.status == 200 else None
    except (urllib.error.URLError, OSError):
        return None
