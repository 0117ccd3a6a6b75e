"""What `make video` records with: a camera on a page, a terminal on a page, and the cutting."""

import base64
import fcntl
import html
import json
import os
import pty
import shutil
import struct
import subprocess
import termios
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

import psutil
import pyte
from playwright.sync_api import Page

WIDTH, HEIGHT = 1280, 720
_COLUMNS, _LINES = 118, 29
_FRAMES_A_SECOND: Final = 10
_KEY_SECONDS: Final = 0.03
_SETTLE_MILLISECONDS: Final = 400
_SHOTS: Final = "shots.json"
_COLOURS: Final = {
    "default": "#d7dde8",
    "black": "#5c6678",
    "red": "#ff7b72",
    "green": "#7ee787",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
    "white": "#ffffff",
}
_BACKGROUND: Final = "#0f1420"
_PAGE: Final = """<style>.wide{display:inline-block;width:2ch;height:1em;overflow:hidden;
vertical-align:text-top;font-weight:inherit}</style>
<body style="margin:0;background:#0f1420"><pre id="screen" style="margin:0;
padding:18px 24px;font:17px/22px 'DejaVu Sans Mono',monospace;color:#d7dde8"></pre></body>"""
_CAPTION: Final = """text => {
  let box = document.getElementById("film-caption");
  if (!box) {
    box = document.createElement("div"); box.id = "film-caption";
    Object.assign(box.style, {position: "fixed", left: "50%", bottom: "18px",
      transform: "translateX(-50%)", zIndex: 99999, width: "max-content", maxWidth: "1080px",
      padding: "10px 22px", borderRadius: "8px", background: "rgba(12,17,28,.94)", color: "#fff",
      textAlign: "center", font: "22px/1.35 'DejaVu Sans',sans-serif",
      border: "1px solid #2dd4bf", pointerEvents: "none"});
    document.documentElement.append(box);
  }
  box.textContent = text; box.style.display = text ? "block" : "none";
}"""
"""Shows a caption over whatever page it is."""


class Take:
    """The pictures of some scenes in their order, kept in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        """Empties the folder."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder = folder
        self._shots: list[tuple[str, float]] = []
        self._mark = 0.0

    @property
    def seconds(self) -> float:
        """How long it is so far."""
        return sum(seconds for _, seconds in self._shots)

    def mark(self) -> None:
        """The looping picture begins here."""
        self._mark = self.seconds

    @contextmanager
    def scene(
        self, page: Page, caption: str, longest: float = 1.5, speed: float = 1.0
    ) -> Iterator[None]:
        """Records the page meanwhile, to be shown `speed` times as fast; no picture is shown for
        more than `longest` seconds, but the last one is, for that long.
        """
        page.bring_to_front()
        page.evaluate(_CAPTION, caption)
        taken: list[tuple[float, str]] = []
        camera = page.context.new_cdp_session(page)

        def take(event: dict[str, Any]) -> None:
            name = f"{len(self._shots) + len(taken):06}.jpg"
            (self._folder / name).write_bytes(base64.b64decode(event["data"]))
            taken.append((event["metadata"]["timestamp"], name))
            camera.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

        camera.on("Page.screencastFrame", take)
        camera.send("Page.startScreencast", {"format": "jpeg", "quality": 92})
        page.wait_for_timeout(_SETTLE_MILLISECONDS)
        yield
        page.wait_for_timeout(_SETTLE_MILLISECONDS)
        camera.send("Page.stopScreencast")
        camera.detach()
        ends = [at for at, _ in taken[1:]]
        self._shots += [
            (name, min(max(end - at, 0.0) / speed, longest))
            for (at, name), end in zip(taken, ends, strict=False)
        ]
        self._shots.append((taken[-1][1], longest))

    def keep(self) -> None:
        """Writes down what was taken."""
        record = {"shots": self._shots, "mark": self._mark}
        (self._folder / _SHOTS).write_text(json.dumps(record))


class Terminal:
    """A shell in a pseudo-terminal, shown on a page."""

    def __init__(self, page: Page, folder: Path, environment: Mapping[str, str]) -> None:
        self.page = page
        self._screen = pyte.Screen(_COLUMNS, _LINES)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
        self._shell = subprocess.Popen(
            # Ctrl-C must work in it even if whoever records was started with it ignored.
            [
                *("/usr/bin/setsid", "--ctty", "/usr/bin/env", "--default-signal=INT"),
                *("/bin/bash", "--norc", "--noprofile"),
            ],
            cwd=folder,
            env={**environment, "PS1": "\\[\\e[36m\\]$\\[\\e[0m\\] ", "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        # Read even while the camera is elsewhere: what is not read would hold up who prints.
        self._printed: SimpleQueue[bytes] = SimpleQueue()
        self._reader = Thread(target=self._read, name="terminal", daemon=True)
        self._reader.start()
        page.set_content(_PAGE)
        self.show(1)

    def type(self, command: str) -> None:
        """As fingers do, and Enter."""
        for key in command:
            os.write(self._master, key.encode())
            self.show(_KEY_SECONDS)
        self.press("\r")

    def press(self, key: str) -> None:
        """One key."""
        os.write(self._master, key.encode())
        self.show(0.3)

    def clear(self) -> None:
        """An empty screen, before a scene."""
        self.press("\x0c")

    def show(self, seconds: float) -> None:
        """What the shell prints, for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            while not self._printed.empty():
                self._stream.feed(self._printed.get())
            if self._screen.dirty:
                self._screen.dirty.clear()
                self.page.evaluate(
                    "text => document.getElementById('screen').innerHTML = text", self._html()
                )
            self.page.wait_for_timeout(30)

    def until(self, text: str, seconds: float) -> None:
        """Shows until the screen has the text. Raises TimeoutError with the screen."""
        deadline = time.monotonic() + seconds
        while not any(text in line for line in self._screen.display):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {text!r} on:\n" + "\n".join(self._screen.display))
            self.show(0.2)

    def close(self, seconds: float) -> None:
        """Ctrl-C to what runs in it; kills what does not listen."""
        family = psutil.Process(self._shell.pid).children(recursive=True)
        with suppress(OSError):
            os.write(self._master, b"\x03")
        _, alive = psutil.wait_procs(family, seconds)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._shell.kill()
        self._shell.wait()
        self._reader.join(seconds)
        os.close(self._master)

    def _read(self) -> None:
        with suppress(OSError):  # the last process has closed its end
            while printed := os.read(self._master, 65_536):
                self._printed.put(printed)

    def _html(self) -> str:
        return "\n".join(_line(self._screen.buffer[row]) for row in range(_LINES))


def _line(cells: Mapping[int, Any]) -> str:
    """One line of the screen: a span for each run of cells that look alike."""

    def look(cell: Any) -> tuple[str, str, bool]:
        colours = (_colour(cell.fg, _COLOURS["default"]), _colour(cell.bg, ""))
        if cell.bg == "black":
            colours = (colours[0], _BACKGROUND)
        if cell.reverse:
            colours = (colours[1] or _BACKGROUND, colours[0])
        return (*colours, cell.bold)

    line = ""
    for (front, back, bold), run in groupby((cells[n] for n in range(_COLUMNS)), key=look):
        style = f"color:{front}" + (f";background:{back}" if back else "")
        style += ";font-weight:bold" if bold else ""
        line += f'<span style="{style}">{"".join(_glyph(cell.data) for cell in run)}</span>'
    return line


def _glyph(data: str) -> str:
    """One cell's characters; those that take two cells take as much on the page, in any font."""
    text = html.escape(data)
    wide = data and unicodedata.east_asian_width(data[0]) in {"W", "F"}
    return f'<b class="wide">{text}</b>' if wide else text


def _colour(name: str, default: str) -> str:
    if name == "default":
        return default
    return _COLOURS.get(name.removeprefix("bright"), f"#{name}")


def cut(takes: list[Path], video: Path, loop: Path, loop_seconds: float) -> float:
    """Makes of the takes one video (VP9), and of what follows the first one's mark a small looping
    picture (WebP); returns the video's seconds. Raises CalledProcessError when ffmpeg fails.
    """
    records = [(take, json.loads((take / _SHOTS).read_text())) for take in takes]
    shots = [(take / name, length) for take, record in records for name, length in record["shots"]]
    listing = takes[0].parent / "shots.txt"
    # The last picture's length only counts when another one follows.
    lines = [f"file '{path}'\nduration {length:.3f}\n" for path, length in [*shots, shots[-1]]]
    listing.write_text("".join(lines))
    _ffmpeg(
        *("-f", "concat", "-safe", "0", "-i", str(listing)),
        *("-vf", f"fps={_FRAMES_A_SECOND},scale={WIDTH}:{HEIGHT}", "-pix_fmt", "yuv420p"),
        *("-c:v", "libvpx-vp9", "-crf", "36", "-b:v", "0", "-row-mt", "1", "-cpu-used", "3"),
        *("-g", "100", str(video)),
    )
    _ffmpeg(
        *("-ss", f"{records[0][1]['mark']:.1f}", "-t", f"{loop_seconds:.1f}", "-i", str(video)),
        *("-vf", "fps=4,scale=840:-1", "-c:v", "libwebp_anim", "-loop", "0", "-quality", "60"),
        str(loop),
    )
    return sum(length for _, length in shots)


def _ffmpeg(*arguments: str) -> None:
    subprocess.run(["ffmpeg", "-y", "-loglevel", "error", *arguments], check=True)  # noqa: S607
