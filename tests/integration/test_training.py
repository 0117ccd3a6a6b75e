"""Training against a real MLflow: what is logged and registered, which alias moves, and that what
is fetched is what the predictor serves.
"""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from services.core.gate import GateSettings
from services.core.model import MODEL_FILE, load
from training.readers import Dataset, read
from training.settings import SAMPLE, TrainingSettings
from training.train import Result, train

with warnings.catch_warnings():
    # mlflow and what it imports use what newer libraries deprecate.
    warnings.simplefilter("ignore")
    import mlflow
    from mlflow import MlflowClient

    from training.registry import NoSuchVersionError, Registry

# mlflow's own, at its first use.
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")


@pytest.fixture(scope="module")
def registry(mlflow_url: str) -> Registry:
    return Registry(mlflow_url)


@pytest.fixture(scope="module")
def client(mlflow_url: str) -> MlflowClient:
    return MlflowClient(tracking_uri=mlflow_url, registry_uri=mlflow_url)


@pytest.fixture(scope="module")
def first(registry: Registry) -> Result:
    return train(TrainingSettings(folds=2), registry, GateSettings())


@pytest.fixture(scope="module")
def sample() -> Dataset:
    return read(SAMPLE)


def test_the_first_version_becomes_champion_and_the_next_challenger(
    registry: Registry, first: Result, sample: Dataset, tmp_path: Path
) -> None:
    test = tmp_path / "test.csv"
    test.write_text("label,text\npositive,so good\nneutral,at nine\nnegative,bad\n")

    second = train(TrainingSettings(folds=2, test=test), registry, GateSettings())

    assert (first.alias, second.alias) == ("champion", "challenger")
    assert registry.aliases() == {"champion": first.version, "challenger": second.version}
    assert (first.evaluated_on, first.evaluation.rows) == ("cross-validation", len(sample.texts))
    assert (second.evaluated_on, second.evaluation.rows) == ("test.csv", 3)


def test_a_run_holds_what_is_needed_to_judge_and_to_repeat_it(
    client: MlflowClient, first: Result, sample: Dataset
) -> None:
    version = client.get_model_version("sentiment", first.version)

    run = client.get_run(version.run_id).data
    plots = {file.path for file in client.list_artifacts(version.run_id)}
    assert plots >= {"confusion_matrix.png", "calibration.png"}
    assert run.tags["data.sha256"] == version.tags["data.sha256"] == sample.sha256
    assert run.metrics["macro_recall"] == pytest.approx(first.evaluation.macro_recall)
    assert run.metrics["cv.naive_bayes.macro_recall"] > 1 / 3
    assert run.params["data.rows"] == str(len(sample.texts))
    assert "classifier__C" in run.params
    assert {"version.python", "version.scikit-learn", "version.moodstream"} <= run.tags.keys()


def test_a_version_is_skops_and_never_pickle_and_needs_no_test_tools(
    registry: Registry, first: Result, tmp_path: Path
) -> None:
    folder = registry.fetch(first.version, tmp_path)

    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    requirements = (folder / "requirements.txt").read_text()
    assert str(MODEL_FILE) in files
    assert {"MLmodel", "input_example.json"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".joblib"))]
    assert "scikit-learn==" in requirements
    assert "pytest" not in requirements


def test_a_version_holds_what_it_said_about_its_example(
    registry: Registry, first: Result, tmp_path: Path
) -> None:
    folder = registry.fetch(first.version, tmp_path)

    logged = yaml.safe_load((folder / "MLmodel").read_text())["metadata"]["example_output"]
    example = json.loads((folder / "input_example.json").read_text())
    said = load(folder).predict([row[0] for row in example["data"]])
    assert example["columns"] == ["text"]
    assert np.asarray(logged) == pytest.approx(said, abs=1e-6)


def test_a_fetched_alias_is_loaded_with_its_version_and_fetched_once(
    registry: Registry, first: Result, tmp_path: Path
) -> None:
    folder = registry.fetch("champion", tmp_path)
    model = load(folder)
    marker = folder / "still-the-same"
    marker.touch()

    again = registry.fetch("champion", tmp_path)

    assert model.version == first.version
    assert model.predict(["I love it, great!"]).argmax() == 2
    assert again == folder
    assert marker.exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_process_that_has_not_trained_can_fetch(
    mlflow_url: str, first: Result, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from training.registry import Registry; "
        "Registry(sys.argv[1]).fetch('champion', Path(sys.argv[2]))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}

    subprocess.run(
        [sys.executable, "-c", code, mlflow_url, str(tmp_path)], env=environment, check=True
    )

    assert (tmp_path / first.version / MODEL_FILE).is_file()


def test_mlflow_itself_can_load_and_ask_the_model(
    mlflow_url: str, registry: Registry, first: Result, tmp_path: Path
) -> None:
    model = mlflow.pyfunc.load_model(str(registry.fetch("champion", tmp_path)))

    answer = model.predict(pd.DataFrame({"text": ["I love it, great!"]}))

    assert [column.name for column in model.metadata.signature.inputs] == ["text"]
    assert answer["label"].tolist() == ["positive"]


def test_an_alias_or_version_that_is_not_there_is_said_so(
    registry: Registry, first: Result, tmp_path: Path
) -> None:
    for selector in ("nobody", "999"):
        with pytest.raises(NoSuchVersionError, match=selector):
            registry.fetch(selector, tmp_path)


def test_the_module_is_a_job_that_prints_its_result_as_json(mlflow_url: str) -> None:
    environment = {
        "MOODSTREAM_MLFLOW_URL": mlflow_url,
        "MOODSTREAM_TRAINING_FOLDS": "2",
    }

    done = subprocess.run(
        [sys.executable, "-m", "training"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["alias"] in ("champion", "challenger")
    assert 0.5 < result["evaluation"]["macro_recall"] <= 1


def test_the_job_says_in_one_line_what_is_wrong_with_its_data(
    mlflow_url: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("text,label\nfine,positive\nso so,meh\n")

    done = subprocess.run(
        [sys.executable, "-m", "training"],
        env=os.environ
        | {"MOODSTREAM_MLFLOW_URL": mlflow_url, "MOODSTREAM_TRAINING_DATA": str(bad)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "line 3: label 'meh'" in done.stderr
    assert "Traceback" not in done.stderr
