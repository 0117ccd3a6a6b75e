"""One attached platform for the whole session, and which tests run when."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.deployed import CommandError, Platform, run
from tests.missing import missing

_ONLY_WHEN_CHOSEN = {
    "cluster_up": "brings the platform up once more; its command is MOODSTREAM_E2E_UP",
    "teardown": "takes the platform down, its data included, and brings it back",
}


def pytest_configure(config: pytest.Config) -> None:
    """Declares the markers."""
    for name, meaning in _ONLY_WHEN_CHOSEN.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """These tests delete pods on whatever cluster kubectl points at: they run when they are named,
    never because someone runs all tests.
    """
    named = any("e2e" in Path(argument.partition("::")[0]).parts for argument in config.args)
    return None if named else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what must be chosen by `-m`, unless it was, and puts it last."""
    chosen = config.getoption("markexpr")
    late = [item for item in items if any(map(item.get_closest_marker, _ONLY_WHEN_CHOSEN))]
    items[:] = [item for item in items if item not in late]
    if chosen:
        items += late
    else:
        config.hook.pytest_deselected(items=late)


@pytest.fixture(scope="session")
def attached() -> Platform:
    """The platform as it is found."""
    for tool in ("kubectl", "helm"):
        if shutil.which(tool) is None:
            missing(f"{tool} is not on the PATH")
    platform = Platform()
    try:
        run("kubectl", "config", "current-context")
        platform.get("deployment", "moodstream-consumer")
    except CommandError as exc:
        missing(f"no platform in namespace {platform.namespace} of the current context: {exc}")
    return platform


@pytest.fixture(scope="session")
def platform(attached: Platform) -> Iterator[Platform]:
    """The platform, ready to take posts of our own; they are removed at the end."""
    attached.remove_traces()
    attached.allow_way_out()

    yield dataclasses.replace(attached, first_minute=attached.free_stretch())

    attached.remove_traces()


def pytest_report_header() -> str:
    """Which cluster is about to be tested."""
    try:
        context = run("kubectl", "config", "current-context").strip()
    except (CommandError, OSError) as exc:
        context = f"none: {exc}"
    return f"cluster: context {context}, namespace {Platform().namespace}"
