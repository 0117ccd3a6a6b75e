"""What the examiner finds in a version's folder, from real files, broken and hostile ones too."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import skops.io
import yaml

from services.core import examination
from services.core.contract import LABELS
from services.core.evaluation import EvaluationSet
from services.core.examination import PACKAGES, examine
from services.core.gate import Check
from training.candidates import BASELINE, CANDIDATES

TEXTS = ("love it", "hate it", "it is a train", "great day", "awful day", "a day")
SET = EvaluationSet(TEXTS, ("positive", "negative", "neutral") * 2)
EXAMPLES = ("love it", "hate this awful day")
SIGNATURE = {
    "inputs": '[{"type": "string", "name": "text", "required": true}]',
    "outputs": json.dumps(
        [
            {"type": "string", "name": "label", "required": True},
            *({"type": "float", "name": label, "required": True} for label in LABELS),
            {"type": "float", "name": "score", "required": True},
        ]
    ),
    "params": None,
}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as MLflow 3 logs it."""
    folder = tmp_path_factory.mktemp("logged") / "7"
    (folder / "data").mkdir(parents=True)
    pipeline = CANDIDATES[BASELINE]().fit(list(TEXTS) * 5, list(SET.labels) * 5)
    skops.io.dump(pipeline, folder / "data" / "model.skops")
    mlmodel = {
        "signature": SIGNATURE,
        "metadata": {"example_output": pipeline.predict_proba(list(EXAMPLES)).tolist()},
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    pins = [f"{name}=={metadata.version(name)}" for name in PACKAGES]
    (folder / "requirements.txt").write_text("\n".join(["mlflow==3", *pins]))
    example = {"columns": ["text"], "data": [[text] for text in EXAMPLES]}
    (folder / "input_example.json").write_text(json.dumps(example))
    return folder


@pytest.fixture
def folder(logged: Path, tmp_path: Path) -> Path:
    """One to be spoilt."""
    return Path(shutil.copytree(logged, tmp_path / "7"))


def failed(folder: Path) -> Check:
    """The one check that fails; nothing is measured then."""
    found = examine(folder, SET)
    assert [check.passed for check in found.checks[:-1]] == [True] * (len(found.checks) - 1)
    assert not found.checks[-1].passed
    assert (found.macro_recall, found.example) == (None, None)
    return found.checks[-1]


def test_a_version_as_training_logs_it_passes_and_is_measured(logged: Path) -> None:
    found = examine(logged, SET)

    assert [(check.name, check.passed) for check in found.checks] == [
        ("artifact", True),
        ("contract", True),
        ("versions", True),
        ("example", True),
    ]
    assert found.macro_recall == 1.0
    assert found.example is not None
    assert found.example.texts == EXAMPLES
    assert len(found.example.probabilities) == 2


def edit_mlmodel(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = yaml.safe_load((folder / "MLmodel").read_text())
    change(content)
    (folder / "MLmodel").write_text(yaml.safe_dump(content))


class Exploit:
    """Would leave a file behind if it were ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    (folder / "data" / "model.skops").write_bytes(pickle.dumps(Exploit(tmp_path / "pwned")))

    check = failed(folder)

    assert check.name == "artifact"
    assert "no skops file" in check.detail
    assert not (tmp_path / "pwned").exists()


def test_a_type_that_is_not_trusted_is_named(folder: Path) -> None:
    path = folder / "data" / "model.skops"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    schema = parts["schema.json"].replace(b"LogisticRegression", b"Popen")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (parts | {"schema.json": schema}).items():
            archive.writestr(name, content)

    check = failed(folder)

    assert check.name == "artifact"
    assert "not trusted: sklearn.linear_model._logistic.Popen" in check.detail


def test_a_file_that_unpacks_to_too_much_is_not_unpacked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "_MAX_UNPACKED_BYTES", 10_000_000)
    with zipfile.ZipFile(folder / "data" / "model.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(20_000_000))

    check = failed(folder)

    assert check.name == "artifact"
    assert "unpacks to 19 MiB, over the limit of 9" in check.detail


def test_missing_files_are_named(folder: Path) -> None:
    found = {}
    for name in ("input_example.json", "requirements.txt", "MLmodel", "data/model.skops"):
        (folder / name).unlink()
        found[name] = failed(folder)

    assert [check.name for check in found.values()] == [
        "example", "versions", "contract", "artifact",
    ]  # fmt: skip
    assert all(Path(name).name in check.detail for name, check in found.items())


@pytest.mark.parametrize("content", ["a: [", "- a\n", "", "a: !!python/object:os.system {}"])
def test_an_mlmodel_that_is_no_yaml_of_ours(folder: Path, content: str) -> None:
    (folder / "MLmodel").write_text(content)

    assert failed(folder).name == "contract"


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "text",
        {"inputs": "[]", "outputs": SIGNATURE["outputs"]},
        {"inputs": "no JSON", "outputs": "[]"},
        {"inputs": SIGNATURE["inputs"], "outputs": SIGNATURE["inputs"]},
    ],
)
def test_another_signature_breaks_the_contract(folder: Path, signature: Any) -> None:
    edit_mlmodel(folder, lambda content: content.update(signature=signature))

    assert failed(folder).name == "contract"


@pytest.mark.parametrize("pins", ["", "scikit-learn==0.1\nskops==0.1", "numpy>=1"])
def test_other_versions_are_named_beside_those_installed(folder: Path, pins: str) -> None:
    (folder / "requirements.txt").write_text(pins)

    check = failed(folder)

    assert check.name == "versions"
    assert f"instead of {metadata.version('scikit-learn')}" in check.detail


@pytest.mark.parametrize(
    "output",
    [
        None,
        [],
        [[0.1, 0.2, 0.7]],
        [[0.1, 0.2], [0.1, 0.2]],
        [["a", "b", "c"], ["a", "b", "c"]],
        [[float("nan")] * 3] * 2,
        [[0.1, 0.2, 0.7]] * 2,
    ],
)
def test_another_output_than_the_logged_one_is_found(folder: Path, output: Any) -> None:
    edit_mlmodel(folder, lambda content: content["metadata"].update(example_output=output))

    assert failed(folder).name == "example"


@pytest.mark.parametrize(
    "example",
    ["no JSON", "{}", '{"columns": ["text"], "data": []}', '{"columns": ["text"], "data": [[1]]}'],
)
def test_an_input_example_that_cannot_be_used(folder: Path, example: str) -> None:
    (folder / "input_example.json").write_text(example)

    assert failed(folder).name == "example"
