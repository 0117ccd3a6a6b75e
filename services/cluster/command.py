"""Programs of others: found, run, and quoted when they fail."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Final

from services.cluster.errors import ClusterError

_SECONDS: Final = 600.0
_QUOTED_LINES: Final = 12


class CommandError(ClusterError):
    """A program ended with an error, or is not there."""


def found(program: str) -> bool:
    """Whether the program is on the path."""
    return shutil.which(program) is not None


def run(*arguments: str, text: str | None = None, seconds: float = _SECONDS) -> str:
    """Standard output of a program that ends well; `text` goes to its standard input, which is the
    only place for a secret.
    """
    try:
        done = subprocess.run(
            arguments, input=text, capture_output=True, text=True, timeout=seconds, check=False
        )
    except FileNotFoundError as exc:
        raise CommandError(f"{arguments[0]} is not installed") from exc
    except subprocess.TimeoutExpired as exc:
        raise CommandError(f"{_named(arguments)} has not ended after {seconds:.0f} s") from exc
    if done.returncode:
        raise CommandError(f"{_named(arguments)} failed:\n{_tail(done.stderr or done.stdout)}")
    return done.stdout


def follow(*arguments: str, say: Callable[[str], None]) -> str:
    """Like `run`, for what takes minutes: each line of standard error is said as it comes."""
    said = []
    try:
        with subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            for line in process.stderr or ():
                said.append(line)
                say(line.strip())
            output = process.stdout.read() if process.stdout else ""
    except FileNotFoundError as exc:
        raise CommandError(f"{arguments[0]} is not there") from exc
    if process.returncode:
        raise CommandError(f"{_named(arguments)} failed:\n{_tail(''.join(said))}")
    return output


def stream(*arguments: str) -> int:
    """Runs a program in the foreground, with this terminal; its exit status."""
    try:
        return subprocess.run(arguments, check=False).returncode
    except FileNotFoundError as exc:
        raise CommandError(f"{arguments[0]} is not installed") from exc


def _named(arguments: Sequence[str]) -> str:
    return " ".join(arguments[:3])


def _tail(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-_QUOTED_LINES:])
