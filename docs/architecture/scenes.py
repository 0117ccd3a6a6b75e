"""The diagrams, as boxes and lines with places: read from diagrams.yaml, laid out from a sequence,
or made of the simulation of a burst. Lengths are inches, sizes of type are points.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import yaml

from docs.architecture.measure import LINE_HEIGHT, width_of, wrapped
from docs.architecture.source import SOURCES, SourceError, components, figures
from tests.bench.scale import Scaling, follow

NAVY, INK, GREY, PALE, TEAL = "1F2A44", "1F2937", "5B6472", "CBD5E1", "0F766E"


@dataclass(frozen=True)
class Look:
    """How boxes of a style are drawn."""

    fill: str | None = None
    border: str | None = None
    title: float = 10.5
    text: float = 8.5
    colour: str = INK
    bold: bool = True
    head: bool = False
    """The title stands at the top left, and other boxes below it."""
    middle: bool = True
    padding: float = 0.05
    """Left and right of the text."""


LOOKS: Final = {
    "area": Look("F8FAFC", "94A3B8", head=True, colour=GREY, title=9.5),
    "inner": Look("FFFFFF", "CBD5E1", head=True, colour=GREY, title=9),
    "group": Look("FFFFFF", "B45309", head=True, colour="92400E", title=8.5),
    "ours": Look("D9F0EC", TEAL),
    "ours_plain": Look("D9F0EC", TEAL, title=8.5, text=8, bold=False),
    "part": Look("DFE9FC", "2563EB"),
    "part_plain": Look("DFE9FC", "2563EB", title=8.5, text=8, bold=False),
    "job": Look("FDEFD8", "B45309", title=9.5),
    "job_plain": Look("FDEFD8", "B45309", title=8.5, text=8, bold=False),
    "outside": Look("EEF0F3", "8A94A3", title=9.5),
    "outside_plain": Look("EEF0F3", "8A94A3", title=8.5, bold=False),
    "strip": Look("F1F5F9", "94A3B8", title=8.5, bold=False),
    "good": Look("DCF3E1", "15803D", title=9.5),
    "bad": Look("FBE3E1", "B91C1C", title=9.5),
    "plain": Look(None, None, title=8.5, bold=False, colour=GREY),
    "label": Look("FFFFFF", None, title=9.5, bold=False, middle=False),
    "left": Look(None, None, title=8.5, bold=False, colour=GREY, middle=False),
}
LINES: Final = {
    "flow": ("475569", 1.25),
    "life": ("94A3B8", 0.75),
    "lag": ("B91C1C", 2.0),
    "count": (TEAL, 2.0),
    "grid": ("E2E8F0", 0.75),
}
UNDER: Final = frozenset({"life", "grid"})
"""Styles of lines that boxes cover."""


@dataclass(frozen=True)
class Box:
    """A rectangle with a title and, under it, a text."""

    name: str
    left: float
    top: float
    width: float
    height: float
    look: Look
    title: str = ""
    text: str = ""

    def anchor(self, side: str, share: float = 0.5) -> tuple[float, float]:
        """The point at `share` of a side."""
        across, down = {
            "left": (0.0, share),
            "right": (1.0, share),
            "top": (share, 0.0),
            "bottom": (share, 1.0),
        }[side]
        return self.left + across * self.width, self.top + down * self.height


@dataclass(frozen=True)
class Line:
    """A line through points, with an arrow head at its end, at both ends or at none."""

    points: tuple[tuple[float, float], ...]
    style: str = "flow"
    end: bool = True
    start: bool = False


@dataclass(frozen=True)
class Scene:
    """A diagram, ready to be drawn. Lines lie over boxes."""

    name: str
    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]

    def scaled(self, factor: float) -> "Scene":
        """The same, so many times as large, with its type."""
        boxes = tuple(
            replace(
                box,
                left=box.left * factor,
                top=box.top * factor,
                width=box.width * factor,
                height=box.height * factor,
                look=replace(box.look, title=box.look.title * factor, text=box.look.text * factor),
            )
            for box in self.boxes
        )
        lines = tuple(
            replace(line, points=tuple((x * factor, y * factor) for x, y in line.points))
            for line in self.lines
        )
        return Scene(self.name, self.width * factor, self.height * factor, boxes, lines)


def scenes(said: Mapping[str, Any]) -> dict[str, Scene]:
    """All diagrams in the language of `said`, each checked: every text fits its box."""
    layout = yaml.safe_load((SOURCES / "diagrams.yaml").read_text())
    check_places(layout["infrastructure"]["boxes"])
    made = {}
    for name, plan in layout.items():
        draw = _sequence if "lifelines" in plan else _boxes
        made[name] = draw(name, plan, said["diagrams"][name])
    made["burst"] = _burst(said)
    for scene in made.values():
        for box in scene.boxes:
            check_fit(scene.name, box)
    return {
        name: _enlarged(scene) if "boxes" in layout.get(name, ()) else scene
        for name, scene in made.items()
    }


def check_places(boxes: Mapping[str, Mapping[str, Any]]) -> None:
    """Every component has a place in the infrastructure diagram, and every place its component."""
    placed = {path for box in boxes.values() for path in box.get("of", ())}
    if missing := sorted(components() - placed):
        raise SourceError(f"without a box in docs/architecture/diagrams.yaml: {', '.join(missing)}")
    if gone := sorted(placed - components()):
        raise SourceError(
            f"docs/architecture/diagrams.yaml has boxes of what is not there: {', '.join(gone)}"
        )


def _boxes(name: str, plan: Mapping[str, Any], said: Mapping[str, Sequence[str]]) -> Scene:
    if set(said) != set(plan["boxes"]):
        raise SourceError(
            f"{name}: boxes and words differ: {sorted(set(said) ^ set(plan['boxes']))}"
        )
    boxes = {
        key: Box(key, *place["at"], LOOKS[place["style"]], *said[key])
        for key, place in plan["boxes"].items()
    }

    def point(place: str) -> tuple[float, float]:
        box, side, share = re.fullmatch(r"(\w+)\.(\w+)(?::([\d.]+))?", place).groups()
        return boxes[box].anchor(side, float(share or 0.5))

    lines = tuple(
        Line(
            (point(line["from"]), *map(tuple, line.get("via", ())), point(line["to"])),
            start=line.get("both", False),
        )
        for line in plan["lines"]
    )
    return Scene(name, *plan["size"], tuple(boxes.values()), lines)


_HEAD: Final = 0.46
_LABEL: Final = 0.19
_OWN: Final = 0.3
"""How far an arrow from a lifeline to itself goes out."""


def _sequence(name: str, plan: Mapping[str, Any], said: Mapping[str, Sequence[str]]) -> Scene:
    """Who says what to whom, in order, from top to bottom."""
    if set(said) != set(plan["lifelines"]) | {text for _, _, text in plan["messages"]}:
        raise SourceError(f"{name}: lifelines and messages are not those that have words")
    width, height = plan["size"]
    column = width / len(plan["lifelines"])
    middle = {key: column * (index + 0.5) for index, key in enumerate(plan["lifelines"])}
    step = (height - _HEAD) / len(plan["messages"])
    boxes = [
        Box(key, middle[key] - 0.46 * column, 0, 0.92 * column, _HEAD, LOOKS[style], said[key][0])
        for key, style in plan["lifelines"].items()
    ]
    lines = [Line(((x, _HEAD), (x, height)), "life", end=False) for x in middle.values()]
    for index, (sender, receiver, key) in enumerate(plan["messages"]):
        y = _HEAD + step * (index + 0.85)
        start, end = middle[sender], middle[receiver]
        points = [(start, y), (end, y)]
        left, top = min(start, end) + 0.06, y - _LABEL - 0.04
        if sender == receiver:
            out = start + _OWN
            points = [(start, y - _LABEL), (out, y - _LABEL), (out, y), (end, y)]
            left, top = out + 0.04, y - _LABEL
        lines.append(Line(tuple(points)))
        text = f"{index + 1}. {said[key][0]}"
        look = LOOKS["label"]
        room = width_of(text, look.title) + 2 * look.padding + 0.02
        boxes.append(Box(key, min(left, width - room), top, room, _LABEL, look, text))
    return Scene(name, width, height, tuple(boxes), tuple(lines))


_BURST_AT: Final = 60
_BURST_SECONDS: Final = 600
_SECONDS: Final = 19 * 60
_RATE: Final = 5_700
_TIMES: Final = 10
_MOST_LAG: Final = 1_000_000
_MOST_CONSUMERS: Final = 4


def _burst(said: Mapping[str, Any]) -> Scene:
    """The lag and the consumers of a rate that is ten times as high for ten minutes, simulated with
    the chart's defaults and the measured capacity of a consumer.
    """
    width, height, left, right = 8.6, 3.7, 1.15, 8.4
    labels = {key: text[0] for key, text in said["diagrams"]["burst"].items()}
    capacity = float(figures("en", said["months"])["drain"].replace(",", ""))
    burst = range(_BURST_AT, _BURST_AT + _BURST_SECONDS)
    moments = list(
        follow(
            lambda second: _RATE * _TIMES if second in burst else _RATE, _SECONDS, Scaling(capacity)
        )
    )
    if max(moment.lag for moment in moments) > _MOST_LAG:
        raise SourceError(f"burst: the lag rises above {_MOST_LAG}, where its diagram ends")

    def x(second: float) -> float:
        return left + (right - left) * second / _SECONDS

    def lag(posts: float) -> float:
        return 1.95 - 1.6 * posts / _MOST_LAG

    def count(consumers: float) -> float:
        return 3.25 - 0.9 * consumers / _MOST_CONSUMERS

    def label(text: str, middle: float, y: float, room: float = 2.0) -> Box:
        return Box(text, middle - room / 2, y - 0.11, room, 0.22, LOOKS["plain"], text)

    since, until = x(burst.start), x(burst.stop)
    boxes = [
        Box("burst", since, 0.3, until - since, 2.95, Look("FEF6E7", None)),
        Box("lag", 0, 0.02, 3, 0.24, LOOKS["left"], labels["lag"]),
        Box("consumers", 0, 2.06, 3, 0.24, LOOKS["left"], labels["consumers"]),
        label(labels["during"], (since + until) / 2 + 0.7, 0.14, 3),
        label(labels["minutes"], (left + right) / 2, 3.57, 4),
        *(
            label(str(minute), x(_BURST_AT + 60 * minute), 3.37, 0.4)
            for minute in range(0, (_SECONDS - _BURST_AT) // 60 + 1, 2)
        ),
    ]
    ticks = [
        (lag(0), "0"),
        (lag(_MOST_LAG / 2), labels["half"]),
        (lag(_MOST_LAG), labels["million"]),
    ]
    ticks += [(count(consumers), str(consumers)) for consumers in (0, 2, _MOST_CONSUMERS)]
    boxes += [label(text, left / 2 + 0.05, y, 1) for y, text in ticks]
    lines = [Line(((left, y), (right, y)), "grid", end=False) for y, _ in ticks]
    lags = [(x(moment.second), lag(moment.lag)) for moment in moments[::5]]
    counts = [(x(moments[0].second), count(moments[0].wanted))]
    for moment in moments:
        at = x(moment.second)
        if count(moment.wanted) != counts[-1][1] or moment is moments[-1]:
            counts += [(at, counts[-1][1]), (at, count(moment.wanted))]
    lines.append(Line(tuple(lags), "lag", end=False))
    lines.append(Line(tuple(counts), "count", end=False))
    return Scene("burst", width, height, tuple(boxes), tuple(lines))


_SIZES: Final = tuple(1 + step / 20 for step in range(6, -1, -1))
_AIR: Final = 0.07
"""Share of a box that is left free beside what was enlarged."""


def _enlarged(scene: Scene) -> Scene:
    """The same with its type as large as the boxes allow: what has one size keeps one."""

    def larger(box: Box, size: float) -> Box:
        look = replace(box.look, title=box.look.title * size, text=box.look.text * size)
        return replace(box, look=look)

    def fits(box: Box, size: float) -> bool:
        tried = replace(larger(box, size), height=box.height * (1 - 2 * _AIR))
        if not box.look.bold:  # What is a line stays one.
            tried = replace(tried, width=box.width * (1 - _AIR))
            if sum(map(len, laid(tried))) > sum(map(len, laid(box))):
                return False
        with suppress(SourceError):
            check_fit(scene.name, tried)
            return True
        return False

    def kind(box: Box) -> tuple[float, bool]:
        return box.look.title, box.look.bold

    free = [box for box in scene.boxes if not box.look.head]
    chosen = {
        one: next(
            (size for size in _SIZES if all(fits(box, size) for box in free if kind(box) == one)),
            1.0,
        )
        for one in {kind(box) for box in free}
    }
    boxes = (box if box.look.head else larger(box, chosen[kind(box)]) for box in scene.boxes)
    return replace(scene, boxes=tuple(boxes))


def laid(box: Box) -> tuple[list[str], list[str]]:
    """The lines of a box's title and text."""
    room = box.width - 2 * box.look.padding
    title = wrapped(box.title, box.look.title, room, box.look.bold) if box.title else []
    return title, wrapped(box.text, box.look.text, room) if box.text else []


def check_fit(scene: str, box: Box) -> None:
    """The texts of a box are in it, whole."""
    title, text = laid(box)
    tall = (len(title) * box.look.title + len(text) * box.look.text) * LINE_HEIGHT / 72
    wide = max(
        [width_of(line, box.look.title, box.look.bold) for line in title]
        + [width_of(line, box.look.text) for line in text],
        default=0.0,
    )
    if tall > box.height or wide > box.width - 2 * box.look.padding + 0.01:
        raise SourceError(f"{scene}: too long for its box: {box.name}: {box.title} {box.text}")
