"""Writes what a chart's values.yaml says into its README.md and values.schema.json: `make docs`.

A comment that stands directly above a key and starts with the key's name describes that value.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[1]
CHARTS: Final = tuple(sorted(path.parent for path in ROOT.glob("charts/*/Chart.yaml")))
_OPEN: Final = "<!-- values -->"
_CLOSE: Final = "<!-- /values -->"
_LONGEST_DEFAULT: Final = 48


@dataclass(frozen=True)
class Value:
    """One entry of values.yaml."""

    path: tuple[str, ...]
    default: Any
    comment: str
    """Its lines joined; empty when there is none."""
    group: bool
    """Whether the values below it are described one by one."""

    @property
    def name(self) -> str:
        """As `--set` spells it."""
        return ".".join(self.path)


def values(chart: Path) -> tuple[Value, ...]:
    """What values.yaml holds, in its order; nothing below a value that is described as a whole."""
    text = (chart / "values.yaml").read_text()
    return tuple(_walk(yaml.compose(text, yaml.SafeLoader), (), text.splitlines()))


def readme(chart: Path) -> str:
    """The chart's README with its table of values."""
    text = (chart / "README.md").read_text()
    head, opening, rest = text.partition(_OPEN)
    _, closing, tail = rest.partition(_CLOSE)
    if not opening or not closing:
        raise ValueError(f"{chart.name}/README.md has no {_OPEN} and {_CLOSE}")
    return f"{head}{_OPEN}\n{_table(chart)}{_CLOSE}{tail}"


def schema(chart: Path) -> str:
    """The chart's values.schema.json with the comments as descriptions."""
    document = json.loads((chart / "values.schema.json").read_text())
    for value in values(chart):
        node = find(document, value.path)
        if node is not None and value.comment:
            _describe(node, value.comment)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def find(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """The schema of one value; None when there is none."""
    node: dict[str, Any] | None = document
    for key in path:
        if node is None:
            return None
        node = resolve(document, node).get("properties", {}).get(key)
    return node


def resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """The node itself, or what its `$ref` stands for."""
    while "$ref" in node:
        target: Any = document
        for key in node["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        node = target
    return node


def _walk(node: Any, path: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, child in node.value:
        below = (
            tuple(_walk(child, (*path, key.value), lines))
            if isinstance(child, yaml.MappingNode)
            else ()
        )
        comment = _comment_above(lines, key.start_mark.line, key.start_mark.column)
        group = any(value.comment for value in below) or (bool(below) and not comment)
        default = yaml.safe_load(yaml.serialize(child))
        yield Value((*path, key.value), default, comment, group)
        if group:
            yield from below


def _comment_above(lines: list[str], line: int, column: int) -> str:
    found: list[str] = []
    prefix = " " * column + "# "
    while line > 0 and lines[line - 1].startswith(prefix):
        line -= 1
        found.insert(0, lines[line].removeprefix(prefix).strip())
    return " ".join(found)


def _describe(node: dict[str, Any], comment: str) -> None:
    """Sets the description, in the first place, where a reader looks for it."""
    rest = {key: value for key, value in node.items() if key != "description"}
    node.clear()
    node.update({"description": comment, **rest})


def _table(chart: Path) -> str:
    document = json.loads((chart / "values.schema.json").read_text())
    lines = ["| value | type | default | meaning |", "| --- | --- | --- | --- |"]
    for value in values(chart):
        if not value.group:
            node = find(document, value.path) or {}
            cells = (
                f"`{value.name}`",
                _type(resolve(document, node)),
                _default(value.default),
                value.comment,
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _type(node: dict[str, Any]) -> str:
    if "enum" in node:
        choices = (c if isinstance(c, str) else json.dumps(c) for c in node["enum"])
        return ", ".join(f"`{choice}`" if choice else "empty" for choice in choices)
    kind = node.get("type", "any")
    return kind if isinstance(kind, str) else " or ".join(kind)


def _default(default: Any) -> str:
    text = json.dumps(default, ensure_ascii=False)
    if isinstance(default, str):
        text = default and re.sub(r"\s+", " ", default)
    if not text:
        return "empty"
    return f"`{text}`" if len(text) <= _LONGEST_DEFAULT else "see [values.yaml](values.yaml)"


def main() -> None:
    """Brings every chart's README and schema up to date."""
    for chart in CHARTS:
        (chart / "values.schema.json").write_text(schema(chart))
        (chart / "README.md").write_text(readme(chart))


if __name__ == "__main__":
    main()
