"""An image holds what its service imports: modules of ours, packages of its requirements."""

import ast
import re
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.tools import ROOT

DOCKERFILES = {
    path.parent.name: path
    for path in (*ROOT.glob("services/*/Dockerfile"), ROOT / "training" / "Dockerfile")
}
_MORE_COMMANDS = {"consumer": ["services.consumer.replay"]}
_ELSEWHERE = {"vaderSentiment", "tableauhyperapi"}
"""Imported by a function of services.core that only training calls; by the command of services.etl
that needs an extra, and says so.
"""


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_has_every_module_that_its_service_imports(name: str) -> None:
    text = DOCKERFILES[name].read_text()
    copied = re.findall(r"^COPY (\S+) (?:services|training)\S*$", text, re.MULTILINE)

    reached, _ = _imports(*_entries(name))

    paths = {path.relative_to(ROOT) for path in reached.values()}
    assert {str(p) for p in paths if not any(p.is_relative_to(c) for c in copied)} == set()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_has_every_package_that_its_service_imports(name: str) -> None:
    (wanted,) = re.findall(r"requirements/(\S+)\.txt", DOCKERFILES[name].read_text())
    compiled = (ROOT / "requirements" / f"{wanted}.txt").read_text()
    installed = {_normal(n) for n in re.findall(r"^([\w.-]+)==", compiled, re.MULTILINE)}

    _, packages = _imports(*_entries(name))

    known = packages_distributions()
    missing = {
        package
        for package in packages
        if package in known and not {_normal(d) for d in known[package]} & installed
    }
    assert missing - (_ELSEWHERE if name != "training" else set()) == set()


def _entries(name: str) -> list[str]:
    """The modules that an image is started with."""
    (module,) = re.findall(
        r'^ENTRYPOINT .*"-m", "(\S+)"', DOCKERFILES[name].read_text(), re.MULTILINE
    )
    return [f"{module}.__main__", *_MORE_COMMANDS.get(name, [])]


def _imports(*entries: str) -> tuple[dict[str, Path], set[str]]:
    """Our modules that the entries lead to, and the packages that these import."""
    reached: dict[str, Path] = {}
    packages: set[str] = set()
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        path = _file(module)
        if module in reached or path is None:
            continue
        reached[module] = path
        for name in _imported(path):
            if name.split(".")[0] in {"services", "training"}:
                waiting += [name, name.rpartition(".")[0]]
            else:
                packages.add(name.split(".")[0])
    return reached, packages


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
