"""What the architecture document and slides say: the words in one file per language, the figures
that they name, read from where they stand, and the components that the project consists of.

What is missing or does not fit raises SourceError.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

SOURCES: Final = Path(__file__).parent
ROOT: Final = SOURCES.parents[1]
LANGUAGES: Final = ("en", "fr")
_NO_BREAK: Final = "\N{NO-BREAK SPACE}"
_UNITS: Final = (
    "m?s|µs|h|G[Bo]|Gi[Bo]|posts|messages|textes|texts|millions?|dollars?|cores|cœurs|fois|times"
    "|secondes?|seconds?|minutes?|hours|heures|days|jours"
)
_BEFORE_UNIT: Final = re.compile(rf"(?<=\d) (?=(?:\d{{3}}|{_UNITS})\b|%)")
_MARKED: Final = re.compile(r"(\*\*.+?\*\*|`.+?`)")


class SourceError(ValueError):
    """A text, a figure or a place in docs/architecture/ does not fit the rest of the project."""


def words(language: str) -> dict[str, Any]:
    """The texts of a language, its figures filled in, its typography set."""
    source = yaml.safe_load((SOURCES / f"{language}.yaml").read_text())
    found = figures(language, source["months"])

    def filled(node: Any) -> Any:
        if isinstance(node, str):
            text = re.sub(r"{{(\w+)}}", lambda name: _known(found, name[1], language), node)
            return typeset(text, language)
        if isinstance(node, list):
            return [filled(item) for item in node]
        return {key: filled(item) for key, item in node.items()} if isinstance(node, dict) else node

    return {**filled(source), "language": language}


def _known(found: Mapping[str, str], name: str, language: str) -> str:
    if name not in found:
        raise SourceError(f"{language}.yaml names {{{{{name}}}}}, which figures.yaml does not have")
    return found[name]


def figures(language: str, months: Sequence[str]) -> dict[str, str]:
    """The figures by name, as `language` writes numbers and dates."""
    found = {}
    for name, (path, pattern) in yaml.safe_load((SOURCES / "figures.yaml").read_text()).items():
        match = re.search(pattern, (ROOT / path).read_text())
        if match is None:
            raise SourceError(f"{path} no longer says {name}: no match for {pattern}")
        found[name] = (
            match[1] if name.startswith("version") else _written(match[1], language, months)
        )
    return found


def _written(figure: str, language: str, months: Sequence[str]) -> str:
    if figure[-1].isdigit() and " " in figure:
        date = datetime.strptime(figure, "%d %B %Y").replace(tzinfo=UTC)
        return f"{date.day}{_NO_BREAK}{months[date.month - 1]} {date.year}"
    whole, point, rest = figure.replace(",", "").partition(".")
    text = f"{int(whole):,}{point}{rest}"
    return text.translate({ord(","): _NO_BREAK, ord("."): ","}) if language == "fr" else text


def typeset(text: str, language: str) -> str:
    """Curved apostrophes; numbers stay with their units; French spaces. Code stays as it is."""
    parts = re.split(r"(`.+?`)", text)
    for index in range(0, len(parts), 2):
        part = re.sub(r"(?<=\w)'", "’", parts[index])
        part = _BEFORE_UNIT.sub(_NO_BREAK, part)
        if language == "fr":
            part = re.sub(r" (?=[:;!?»%])|(?<=«) ", _NO_BREAK, part)
        parts[index] = part
    return "".join(parts)


def runs(text: str) -> Iterator[tuple[str, bool, bool]]:
    """Pieces of a text with whether each is bold, and code."""
    for piece in filter(None, _MARKED.split(text)):
        if piece.startswith("`"):
            yield piece[1:-1], False, True
        elif piece.startswith("**"):
            yield piece[2:-2], True, False
        else:
            yield piece, False, False


def plain(text: str) -> str:
    """A text without its marks."""
    return "".join(piece for piece, _, _ in runs(text))


def components() -> frozenset[str]:
    """What needs a place in the infrastructure diagram: folders of the charts' templates, folders
    with a Dockerfile, and operators. Paths from the root.
    """
    charts = {
        template.parent if template.parent.name != "templates" else template.parent.parent
        for template in ROOT.glob("charts/*/templates/**/*.yaml")
        if template.parent.name != "tests" and _kind(template)
    }
    # Templates beside folders belong to all of these.
    charts -= {path.parent.parent for path in charts if path.parent.name == "templates"}
    images = {
        dockerfile.parent
        for folder in ("services", "training", "images")
        for dockerfile in ROOT.glob(f"{folder}/**/Dockerfile")
        if dockerfile.parent.name != "base"
    }
    operators = set(ROOT.glob("manifests/operators/*.yaml"))
    return frozenset(str(path.relative_to(ROOT)) for path in charts | images | operators)


def kinds(component: str) -> tuple[str, ...]:
    """The kinds of Kubernetes objects that a component of a chart consists of."""
    folder = ROOT / component
    whole_chart = folder / "templates"
    templates = (whole_chart if whole_chart.exists() else folder).glob("*.yaml")
    return tuple(sorted({_kind(path) for path in templates} - {""}))


def _kind(template: Path) -> str:
    match = re.search(r"^kind: (\w+)$", template.read_text(), re.MULTILINE)
    return match[1] if match else ""


def relations() -> frozenset[str]:
    """Names of the warehouse's tables and views."""
    migrations = "".join(
        path.read_text() for path in ROOT.glob("services/core/warehouse/versions/*.py")
    )
    return frozenset(re.findall(r"CREATE (?:TABLE|VIEW) (\w+)", migrations))
