"""Real predictors behind one socket: replaced under load, kept when the next one is no good."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from services.core.errors import TemporaryError
from services.local.net import fetch
from services.local.serving import ForeignFilesError, LocalServing
from services.promoter.decide import Model, Target
from tests.integration.load import Load
from tests.integration.predictor import Predictor
from tests.ports import free_port
from tests.waiting import wait_until

_SECONDS = 90.0
_SINCE = datetime(2026, 3, 1, 12, tzinfo=UTC)

Condition = Callable[[Target], bool]


class Served:
    """A serving with a folder of models of its own."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.port, self.home, self.artifacts = free_port(), folder / "home", folder / "artifacts"
        self.url = f"http://127.0.0.1:{self.port}"
        self.said: list[str] = []
        self.serving = LocalServing(
            "predictor", self.home, self.artifacts, self.port, free_port(), self.said.append
        )
        self._model = model

    def model(self, version: str, whole: bool = True) -> Model:
        """Files of a version; not those that count unless `whole`."""
        folder = self.artifacts / "1" / "models" / f"m-{version}" / "artifacts"
        if not folder.exists():
            if whole:
                shutil.copytree(self._model, folder)
            else:
                folder.mkdir(parents=True)
                (folder / "MLmodel").write_text("{}")
        return Model(version, folder.as_uri())

    def replace(self, version: str) -> None:
        """Returns when the version serves and the one before it is gone."""
        model = self.model(version)
        self.serving.serve(model, _SINCE)
        self.wait(lambda target: _done(target, version))

    def wait(self, condition: Condition) -> None:
        """Looks until what is seen is as it should be."""
        wait_until(lambda: condition(self.serving.look()), _SECONDS, "the target")


def _answered(load: Load, version: str) -> bool:
    return load.versions[version] > 50


def _done(target: Target, version: str) -> bool:
    rollout = target.rollout
    assert rollout is not None
    counts = (rollout.version, rollout.updated, rollout.available, rollout.total)
    return counts == (version, 1, 1, 1) and target.unready is None


@pytest.fixture
def served(tmp_path: Path, predictor: Predictor) -> Iterator[Served]:
    """Nothing is served yet."""
    made = Served(tmp_path, predictor.folder)
    yield made
    made.serving.close()


def test_replacing_the_predictor_again_and_again_under_load_fails_no_request(
    served: Served,
) -> None:
    served.replace("1")

    with Load(served.url) as load:
        for version in ("2", "3", "4"):
            served.replace(version)
            wait_until(partial(_answered, load, version), _SECONDS)

    assert load.failures == []
    assert sorted(load.versions) == ["1", "2", "3", "4"]
    for old, new in (("1", "2"), ("2", "3"), ("3", "4")):
        assert load.first[old] < load.first[new]


def test_a_predictor_that_does_not_come_up_leaves_the_old_one_which_needs_no_restart(
    served: Served,
) -> None:
    served.replace("1")
    good, process = served.model("1"), served.serving._serving
    served.serving.serve(served.model("2", whole=False), _SINCE)

    served.wait(lambda target: target.failed is not None)
    failed = served.serving.look()
    meanwhile = _version(served.url)
    back = served.serving.serve(good, _SINCE)

    assert failed.failed is not None
    assert "model.skops is missing" in failed.failed
    assert failed.unready is not None
    assert (failed.version, meanwhile, back.version) == ("2", ["1"], "1")
    served.wait(lambda target: _done(target, "1"))
    assert served.serving._serving is process
    served.serving.check()


def test_a_model_that_is_taken_back_before_it_answers_never_does(served: Served) -> None:
    served.replace("1")

    with Load(served.url) as load:
        served.serving.serve(served.model("2"), _SINCE)
        served.serving.serve(served.model("1"), _SINCE)
        served.wait(lambda target: _done(target, "1"))
        wait_until(partial(_answered, load, "1"), _SECONDS)

    assert load.failures == []
    assert set(load.versions) == {"1"}


def test_what_is_stopped_answers_no_more_and_can_be_served_again(served: Served) -> None:
    before = served.serving.look()
    served.replace("1")

    served.serving.stop()
    stopped = served.serving.look()
    wait_until(lambda: fetch(f"{served.url}/readyz") is None, _SECONDS)

    assert (before.stopped, before.version, before.serves(served.model("1"))) == (True, None, False)
    assert (stopped.stopped, stopped.version) == (True, None)
    wait_until(lambda: _served_again(served), _SECONDS)
    served.wait(lambda target: _done(target, "2"))
    assert _version(served.url) == ["2"]


def _served_again(served: Served) -> bool:
    """Not before the predictor that was stopped has let go of the port."""
    try:
        served.serving.serve(served.model("2"), _SINCE)
    except TemporaryError:
        served.serving.look()
        return False
    return True


def test_a_taken_port_is_named_and_nothing_is_started(served: Served) -> None:
    with (
        socket.create_server(("127.0.0.1", served.port)),
        pytest.raises(TemporaryError, match=f"port {served.port} of predictor"),
    ):
        served.serving.serve(served.model("1"), _SINCE)

    assert served.serving.served is None
    assert not served.home.exists()


def test_files_outside_the_local_mlflow_are_not_served(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ForeignFilesError):
        served.serving.serve(Model("1", tmp_path.as_uri()), _SINCE)


def _version(url: str) -> list[str]:
    said = fetch(f"{url}/v2/models/sentiment")
    assert said is not None
    versions: list[str] = json.loads(said)["versions"]
    return versions
