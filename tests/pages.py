"""The project's pages as tests read them: their commands, links and headings."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tests.tools import ROOT

_NOT_OURS: Final = {"build", "node_modules", "lib"}
PAGES: Final = tuple(
    sorted(
        path
        for path in ROOT.rglob("*.md")
        if not any(part[0] == "." or part in _NOT_OURS for part in path.relative_to(ROOT).parts)
    )
)
_FENCE: Final = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
_SHELL: Final = ("", "sh")
PROGRAMS: Final = ("make", "moodstream", "python", "pytest", "kubectl", "helm", "curl")
"""Whose calls are checked wherever they stand, in a block or within a sentence."""
_VARIABLE: Final = re.compile(r"^[A-Z_][A-Z0-9_]*=")
_OPERATORS: Final = {"&&", "||", "|", ";"}
_REDIRECTIONS: Final = {"<", ">", ">>"}


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    language: str
    text: str


@dataclass(frozen=True)
class Call:
    """One program with its arguments."""

    words: tuple[str, ...]
    whole: bool
    """From a block, to be copied as it is; else a mention in a sentence, which may leave out
    arguments."""

    @property
    def program(self) -> str:
        """Its name without the folder."""
        return Path(self.words[0]).name

    def __str__(self) -> str:
        return shlex.join(self.words)


@cache
def blocks(path: Path) -> tuple[Block, ...]:
    """The page's fenced blocks, in order."""
    found = []
    for match in _FENCE.finditer(path.read_text()):
        indent = len(match["indent"])
        lines = (line[indent:] for line in match["text"].splitlines())
        found.append(Block(match["language"], "\n".join(lines)))
    return tuple(found)


def prose(path: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", path.read_text())


def calls(path: Path) -> Iterator[Call]:
    """Every call of a program: all of a block `sh`, those of PROGRAMS elsewhere."""
    for block in blocks(path):
        if block.language in _SHELL:
            for call in _calls(block.text, whole=True):
                if block.language or call.program in PROGRAMS:
                    yield call
    for code in re.findall(r"`([^`\n]+)`", prose(path)):
        if Path(code.split(" ")[0]).name in PROGRAMS and " " in code:
            yield from _calls(code, whole=False)


def _calls(text: str, *, whole: bool) -> Iterator[Call]:
    # What a command reads from the lines below it is no command.
    text = re.sub(r"<<'(\w+)'\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*_words(lexer, line), ";"]:
            if word not in _OPERATORS:
                words.append(word)
                continue
            call = _call(words)
            if call:
                yield Call(call, whole)
            words = []


def _words(lexer: shlex.shlex, line: str) -> list[str]:
    try:
        return list(lexer)
    except ValueError as exc:
        raise ValueError(f"not a command line: {line}") from exc


def _call(words: list[str]) -> tuple[str, ...]:
    """Without variables before it, and without where it reads from and writes to."""
    while words and _VARIABLE.match(words[0]):
        words = words[1:]
    if words[:1] == ["export"]:
        return ()
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in _REDIRECTIONS:
            skip = True
        else:
            kept.append(word)
    return tuple(kept)


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for title in re.findall(r"^#{1,6} (.+)$", prose(path), flags=re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        name = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        number = 0
        while (unique := f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(unique)
    return found


def links(path: Path) -> list[str]:
    """Where the page leads, in our own repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(path)))
    return [link for link in found if "://" not in link and not link.startswith("mailto:")]
