"""What a chart's values.yaml says is what its README and its schema say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.charts import CHARTS, find, readme, schema, values

pytestmark = pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)


def test_the_readme_has_the_table_of_its_values(chart: Path) -> None:
    assert (chart / "README.md").read_text() == readme(chart), "run: make docs"


def test_the_schema_has_the_comments_as_descriptions(chart: Path) -> None:
    assert (chart / "values.schema.json").read_text() == schema(chart), "run: make docs"


def test_every_value_has_a_comment_that_starts_with_its_name(chart: Path) -> None:
    without = [
        value.name
        for value in values(chart)
        if not (value.group and not value.comment)
        and value.comment.split(" ")[0].rstrip(",:;") != value.path[-1]
    ]

    assert without == []


def test_every_value_is_in_the_schema(chart: Path) -> None:
    document = json.loads((chart / "values.schema.json").read_text())

    unknown = [value.name for value in values(chart) if find(document, value.path) is None]

    assert unknown == []


def test_the_schema_describes_no_value_that_is_not_there(chart: Path) -> None:
    document = json.loads((chart / "values.schema.json").read_text())
    known = {value.path for value in values(chart)}
    groups = {value.path for value in values(chart) if value.group} | {()}

    more = [
        ".".join((*group, key))
        for group in sorted(groups)
        for key in (find(document, group) or {}).get("properties", {})
        if (*group, key) not in known and (group or key not in {"global", "enabled"})
    ]

    assert more == []


def test_no_object_of_the_schema_takes_a_key_it_does_not_know(chart: Path) -> None:
    document = json.loads((chart / "values.schema.json").read_text())

    lenient = [
        path
        for path, node in _nodes(document)
        if "properties" in node and node.get("additionalProperties") is not False
    ]

    assert lenient == []


def _nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "type" in node or "properties" in node:
            yield path, node
        for key, child in node.items():
            yield from _nodes(child, f"{path}/{key}")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _nodes(child, f"{path}/{index}")
