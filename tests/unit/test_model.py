"""Loading a model folder: what is served, and what is refused before any of it runs."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from services.core.contract import LABELS
from services.core.features import PostFeatures
from services.core.model import MODEL_FILE, ModelError, SentimentModel, load

TEXTS = [
    *(f"I love this {thing}, great" for thing in ("bus", "phone", "team", "rain", "job")),
    *(f"the {thing} opens at nine today" for thing in ("bus", "phone", "team", "rain", "job")),
    *(f"this {thing} is awful, hate it" for thing in ("bus", "phone", "team", "rain", "job")),
]
KINDS = ["positive"] * 5 + ["neutral"] * 5 + ["negative"] * 5


def fitted(labels: list[str] = KINDS) -> Pipeline:
    pipeline = Pipeline(
        [("features", PostFeatures(topics=2)), ("classifier", LogisticRegression())]
    )
    return pipeline.fit(TEXTS, labels)


def folder_with(path: Path, model: Any) -> Path:
    (path / MODEL_FILE).parent.mkdir(parents=True)
    skops.io.dump(model, path / MODEL_FILE)
    (path / "MLmodel").write_text("model_id: m-17\n")
    return path


def test_a_model_scores_the_same_after_it_was_stored(tmp_path: Path) -> None:
    pipeline = fitted()

    model = load(folder_with(tmp_path, pipeline))

    probabilities = model.predict(["I love it", "awful"])
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(
        probabilities, pipeline.predict_proba(["I love it", "awful"]), rtol=1e-6
    )
    assert probabilities.argmax(axis=1).tolist() == [
        LABELS.index("positive"),
        LABELS.index("negative"),
    ]


def test_no_texts_give_no_rows(tmp_path: Path) -> None:
    assert SentimentModel(fitted(), "1").predict([]).shape == (0, 3)


def test_a_row_that_is_no_string_is_named() -> None:
    texts: Any = ["fine", None]

    with pytest.raises(TypeError, match="row 1 is NoneType"):
        SentimentModel(fitted(), "1").predict(texts)


def test_the_version_is_the_given_one_else_the_registered_one_else_the_model_id(
    tmp_path: Path,
) -> None:
    folder = folder_with(tmp_path, fitted())

    from_id = load(folder).version
    (folder / "registered_model_meta").write_text("model_name: sentiment\nmodel_version: '4'\n")
    from_registry = load(folder).version
    given = load(folder, "9").version

    assert (from_id, from_registry, given) == ("m-17", "4", "9")


@pytest.mark.parametrize("content", [None, "model_id: [", "- a list", "flavors: {}"])
def test_a_folder_that_names_no_version_is_refused(tmp_path: Path, content: str | None) -> None:
    folder = folder_with(tmp_path, fitted())
    (folder / "MLmodel").unlink()
    if content is not None:
        (folder / "MLmodel").write_text(content)

    with pytest.raises(ModelError, match=r"which version|not YAML"):
        load(folder)


def test_a_type_that_is_not_trusted_is_named_and_nothing_of_it_runs(tmp_path: Path) -> None:
    pipeline = fitted()
    pipeline.steps.insert(1, ("evil", FunctionTransformer(os.system)))
    folder = folder_with(tmp_path, pipeline)
    # What the artifact says about itself does not count.
    (folder / "MLmodel").write_text("model_id: m-17\nskops_trusted_types: [posix.system]\n")

    with pytest.raises(ModelError, match=r"not trusted: posix\.system"):
        load(folder)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


def test_a_pickle_is_never_loaded_whatever_it_is_called(tmp_path: Path) -> None:
    marker = tmp_path / "exploded"
    content = pickle.dumps(Bomb(marker))
    folder = folder_with(tmp_path / "model", fitted())
    (folder / "model.pkl").write_bytes(content)
    (folder / MODEL_FILE).write_bytes(content)

    with pytest.raises(ModelError, match="no skops file"):
        load(folder)

    (folder / MODEL_FILE).unlink()
    with pytest.raises(ModelError, match="skops files only"):
        load(folder)
    assert not marker.exists()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, fitted())
    content = (folder / MODEL_FILE).read_bytes()
    (folder / MODEL_FILE).write_bytes(content[: len(content) // 2])

    with pytest.raises(ModelError):
        load(folder)


def test_a_model_of_other_labels_is_refused(tmp_path: Path) -> None:
    labels = ["good" if kind == "positive" else kind for kind in KINDS]

    with pytest.raises(ModelError, match="the contract says"):
        load(folder_with(tmp_path, fitted(labels)))


@pytest.mark.parametrize(
    "model", [LogisticRegression(), Pipeline([("classifier", LogisticRegression())]), {"a": 1}]
)
def test_a_model_of_another_shape_is_refused(tmp_path: Path, model: Any) -> None:
    with pytest.raises(ModelError, match="not a pipeline from PostFeatures"):
        load(folder_with(tmp_path, model))
