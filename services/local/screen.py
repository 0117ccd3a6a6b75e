"""What a person sees of the local platform: numbered steps, then a live table; plain lines where
the output is no terminal.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from services.local.figures import NewPost

_PLAIN_EVERY_SECONDS: Final = 5.0
_REFRESHES_PER_SECOND: Final = 4
UP: Final = "up"
"""The state of a part that waits for nothing."""
_COLOURS: Final = {"negative": "red", "neutral": "default", "positive": "green"}


@dataclass(frozen=True)
class PartState:
    """One row of the live table."""

    name: str
    state: str
    """Up, or what it waits for."""
    rate: float | None = None
    """Records per second."""
    lag: int | None = None
    """Records that wait."""
    address: str = ""


@dataclass(frozen=True)
class State:
    """Everything in the live table."""

    seconds: float
    parts: Sequence[PartState]
    labels: Mapping[str, int]
    newest: Sequence[NewPost]


class Screen:
    """Writes to one console; a live table replaces itself, plain lines follow each other."""

    def __init__(self, console: Console, steps: int) -> None:
        self.console = console
        self._steps = steps
        self._step = 0
        self._live: Live | None = None
        self._last_plain = -_PLAIN_EVERY_SECONDS
        self._later: SimpleQueue[str] = SimpleQueue()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A numbered step; its line ends with the time it took."""
        self._step += 1
        head = f"[{self._step}/{self._steps}] {title}"
        started = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(escape(head)):
                yield
        else:
            yield
        self.say(f"{head}  {time.monotonic() - started:.1f} s")

    def say(self, line: str) -> None:
        """One line, whatever its length."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def say_later(self, line: str) -> None:
        """One line before the next state; returns at once, from any thread, even when nobody reads
        the terminal.
        """
        self._later.put(line)

    @contextmanager
    def live(self) -> Iterator[None]:
        """While entered, `show` keeps a table up to date in a terminal."""
        if not self.console.is_terminal:
            yield
            return
        with Live(
            console=self.console, refresh_per_second=_REFRESHES_PER_SECOND, transient=False
        ) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def show(self, state: State) -> None:
        """The newest state: in the table, or as one line every few seconds."""
        while not self._later.empty():
            self.say(self._later.get())
        if self._live is not None:
            self._live.update(_render(state))
        elif state.seconds - self._last_plain >= _PLAIN_EVERY_SECONDS:
            self._last_plain = state.seconds
            self.say(plain(state))


def plain(state: State) -> str:
    """The state in one line."""
    parts = [
        f"{part.name} {part.rate:.0f}/s" + (f" lag {part.lag}" if part.lag is not None else "")
        for part in state.parts
        if part.rate is not None
    ]
    labels = [f"{label} {count}" for label, count in state.labels.items()]
    waiting = [f"{part.name} waits: {part.state}" for part in state.parts if part.state != UP]
    return f"{state.seconds:5.0f} s  " + "  ".join(parts + labels + waiting)


def _render(state: State) -> Group:
    parts = Table(expand=True, title=f"moodstream, {state.seconds:.0f} s")
    for name in ("part", "state"):
        parts.add_column(name)
    for name in ("posts/s", "lag"):
        parts.add_column(name, justify="right")
    parts.add_column("address", overflow="fold")
    for part in state.parts:
        parts.add_row(
            part.name,
            part.state,
            "" if part.rate is None else f"{part.rate:,.0f}",
            "" if part.lag is None else f"{part.lag:,}",
            part.address,
        )
    newest = Table(expand=True, title="newest posts")
    newest.add_column("sentiment", min_width=9)
    newest.add_column("score", justify="right", min_width=5)
    newest.add_column("post", no_wrap=True, overflow="ellipsis", ratio=1)
    for post in state.newest:
        newest.add_row(
            Text(post.label, style=_COLOURS.get(post.label, "dim")),
            f"{post.score:+.2f}",
            Text(" ".join(post.text.split())),
        )
    counts = "   ".join(
        f"[{_COLOURS.get(label, 'default')}]{label} {count:,}[/]"
        for label, count in state.labels.items()
    )
    return Group(parts, newest, Text.from_markup(counts), Text("Ctrl-C drains and stops", "dim"))
