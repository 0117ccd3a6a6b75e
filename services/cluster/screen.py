"""What a person sees while the cluster comes up: numbered steps, each with one live line in a
terminal, plain lines elsewhere.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status


class Screen:
    """Writes to one console."""

    def __init__(self, console: Console, steps: int) -> None:
        self.console = console
        self._steps = steps
        self._step = 0
        self._head = ""
        self._status: Status | None = None

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A numbered step; its line ends with the time it took, however it ended."""
        self._step += 1
        self._head = f"[{self._step}/{self._steps}] {title}"
        started = time.monotonic()
        try:
            with self._live():
                yield
        except BaseException:
            self.say(f"{self._head}  failed after {time.monotonic() - started:.1f} s")
            raise
        self.say(f"{self._head}  {time.monotonic() - started:.1f} s")

    @contextmanager
    def _live(self) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        with self.console.status(escape(self._head)) as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None

    def note(self, text: str) -> None:
        """What the step is at: in its live line, or as a line of its own."""
        if self._status is not None:
            self._status.update(escape(f"{self._head}: {text}"))
        elif not self.console.is_terminal:
            self.say(f"      {text}")

    def say(self, line: str) -> None:
        """One line, whatever its length."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
