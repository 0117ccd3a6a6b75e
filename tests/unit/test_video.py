"""The demo video: what it is made with, and what is handed in."""

import csv
import struct
from contextlib import ExitStack
from pathlib import Path

import pyte

from docs import film, video

_DURATION = b"\x44\x89"
"""The element of a WebM file that says how long it is, in milliseconds."""


def test_a_terminals_line_keeps_colours_and_escapes_what_would_be_markup() -> None:
    screen = pyte.Screen(film._COLUMNS, 1)
    pyte.Stream(screen).feed("\x1b[1;32m<ok>\x1b[0m \x1b[7mhere\x1b[0m")

    line = film._line(screen.buffer[0])

    green, default = film._COLOURS["green"], film._COLOURS["default"]
    assert f'<span style="color:{green};font-weight:bold">&lt;ok&gt;</span>' in line
    assert f'<span style="color:#0f1420;background:{default}">here</span>' in line


def test_it_is_recorded_in_a_folder_with_posts_and_words_of_its_own() -> None:
    with ExitStack() as stack:
        folder = video._folder(stack)

        with (folder / "burst.csv").open() as file:
            ids = {row["id"] for row in csv.DictReader(file)}
        with (folder / "slang.csv").open() as file:
            labels = {row["label"] for row in csv.DictReader(file)}
        channels = folder / ".moodstream" / "channels.yaml"

        assert len(ids) == video._BURST_POSTS
        assert labels == {"negative", "neutral", "positive"}
        assert channels.stat().st_mode & 0o777 == 0o600
        assert (folder / "Makefile").samefile(Path(video.__file__).parents[1] / "Makefile")


def test_what_is_handed_in_is_three_minutes_and_20_mb_at_most() -> None:
    content = video._VIDEO.read_bytes()
    at = content.index(_DURATION, 0, 4096)
    (milliseconds,) = struct.unpack(">d", content[at + 3 : at + 11])

    assert len(content) < 20e6
    assert 60_000 < milliseconds <= 180_000
    assert video._LOOP.stat().st_size < 3e6
