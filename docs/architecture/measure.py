"""How wide texts are. Lengths are inches, sizes of type are points."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import matplotlib
from PIL import ImageFont

from docs.architecture.source import SourceError, plain, runs

FONT_RATIO: Final = 0.9
"""Matplotlib's DejaVu, which is on every machine, is so much wider than the files' Arial."""
LINE_HEIGHT: Final = 1.2
_CELL_PADDING: Final = 0.25


@cache
def _font(bold: bool) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), 100)


def width_of(text: str, size: float, bold: bool = False) -> float:
    """How wide a text is."""
    return _font(bold).getlength(text) / 100 * size * FONT_RATIO / 72


def wrapped(text: str, size: float, width: float, bold: bool = False) -> list[str]:
    """The lines of a text; a word that is too long has one of its own."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}".strip(" ")
            if line and width_of(longer, size, bold) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return lines


def column_widths(rows: Sequence[Sequence[str]], room: float, size: float) -> list[float]:
    """Shares of `room`: more for columns with longer texts, no word of which is broken."""
    columns = list(zip(*rows, strict=True))
    least = [
        max(
            width_of(word, size, True) for text in column for word in re.split("[ /-]", roomy(text))
        )
        + _CELL_PADDING
        for column in columns
    ]
    wish = [sum(width_of(plain(text), size) for text in column) ** 0.6 for column in columns]
    widths = [max(low, room * share / sum(wish)) for low, share in zip(least, wish, strict=True)]
    # What the narrow ones take more, the wide ones give.
    spare = [width - low for width, low in zip(widths, least, strict=True)]
    over = sum(widths) - room
    if over > sum(spare):
        raise SourceError(f"no room for the longest words of: {' | '.join(rows[0])}")
    return [
        width - over * part / (sum(spare) or 1) for width, part in zip(widths, spare, strict=True)
    ]


def roomy(text: str) -> str:
    """A text to be measured: without marks, and its code as much longer as Courier is wider."""
    return "".join(
        re.sub(r"\S+", lambda word: word[0] + "m" * (len(word[0]) // 5), piece) if code else piece
        for piece, _, code in runs(text)
    )
