"""Comparing, choosing and measuring models."""

import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io

from services.core import evaluation
from services.core.contract import LABELS
from services.core.errors import TemporaryError
from services.core.model import SentimentModel, load_pipeline
from training.candidates import BASELINE, CANDIDATES
from training.evaluate import Evaluation, evaluate, measure
from training.plots import calibration, confusion
from training.pyfunc import _load_pyfunc
from training.readers import DataError, Dataset, joined, read
from training.registry import Registry
from training.settings import SAMPLE, TrainingSettings
from training.train import CrossValidation, choose, cross_validate, fit

ROWS = 300
TRUE = ["negative", "negative", "neutral", "positive", "positive"]
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.9, 0.0], [0.0, 0.35, 0.65], [0.5, 0.1, 0.4]],
    dtype=np.float32,
)


@pytest.fixture(scope="module")
def sample() -> Dataset:
    data = read(SAMPLE)
    return replace(data, texts=data.texts[:ROWS], labels=data.labels[:ROWS])


def cross_validation(macro_recall: float, standard_error: float) -> CrossValidation:
    nothing = measure(TRUE, PROBABILITIES)
    return CrossValidation(macro_recall, standard_error * 2, standard_error, nothing)


@pytest.mark.parametrize("name", CANDIDATES)
def test_each_candidate_keeps_the_contract_and_can_be_served(
    name: str, sample: Dataset, tmp_path: Path
) -> None:
    pipeline = CANDIDATES[name]().fit(sample.texts, sample.labels)
    skops.io.dump(pipeline, tmp_path / "model.skops")

    model = SentimentModel(load_pipeline(tmp_path / "model.skops"), "1")

    probabilities = model.predict(sample.texts)
    assert tuple(pipeline.classes_) == LABELS
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(ROWS), abs=1e-5)
    assert measure(sample.labels, probabilities).accuracy > 0.8


def test_the_figures_are_those_of_a_hand_count() -> None:
    evaluation = measure(TRUE, PROBABILITIES)

    assert evaluation.rows == 5
    assert evaluation.accuracy == pytest.approx(3 / 5)
    assert evaluation.macro_recall == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert evaluation.macro_f1 == pytest.approx((1 / 2 + 2 / 3 + 2 / 3) / 3)
    assert evaluation.confusion == ((1, 1, 0), (0, 1, 0), (1, 0, 1))
    negative = evaluation.per_label["negative"]
    assert (negative.precision, negative.recall, negative.support) == (0.5, 0.5, 2)


def test_the_calibration_error_is_the_gap_between_confidence_and_being_right() -> None:
    evaluation = measure(TRUE, PROBABILITIES)

    # By tenths: 0.8 right, 0.6 and 0.65 half right, 0.9 right, 0.5 wrong.
    expected = (abs(0.8 - 1) + 2 * abs(0.625 - 0.5) + abs(0.9 - 1) + abs(0.5 - 0)) / 5
    assert evaluation.calibration_error == pytest.approx(expected, abs=1e-6)
    assert sum(part.rows for part in evaluation.calibration) == 5


def test_a_label_that_never_occurs_counts_as_zero() -> None:
    evaluation = measure(["negative"], PROBABILITIES[:1])

    assert evaluation.per_label["positive"].support == 0
    assert evaluation.macro_recall == pytest.approx(1 / 3)


def test_evaluation_scores_every_row_of_data_larger_than_a_batch(sample: Dataset) -> None:
    model = SentimentModel(CANDIDATES[BASELINE]().fit(sample.texts, sample.labels), "1")
    large = replace(sample, texts=sample.texts * 14, labels=sample.labels * 14)

    evaluation = evaluate(model, large)

    assert evaluation.rows == 14 * ROWS
    assert evaluation.accuracy == pytest.approx(evaluate(model, sample).accuracy)


def test_another_candidate_wins_only_beyond_the_baselines_standard_error() -> None:
    baseline = cross_validation(0.70, 0.01)

    assert choose({BASELINE: baseline, "other": cross_validation(0.709, 0)}) == BASELINE
    assert choose({BASELINE: baseline, "other": cross_validation(0.711, 0)}) == "other"
    assert choose({BASELINE: baseline, "other": cross_validation(0.6, 0)}) == BASELINE


def test_cross_validation_scores_rows_with_fits_that_had_not_seen_them(sample: Dataset) -> None:
    # Labels that nothing but memory can predict.
    drawn = np.random.default_rng(0).permutation(sample.labels)
    shuffled = replace(sample, labels=tuple(str(label) for label in drawn))

    result = cross_validate(BASELINE, shuffled, 5)

    assert result.evaluation.rows == ROWS
    assert result.macro_recall < 0.45
    assert result.standard_error == pytest.approx(result.macro_recall_sd / 5**0.5)


def test_the_model_learns_from_everything_but_the_test_data(sample: Dataset) -> None:
    test = replace(sample, texts=sample.texts[:60], labels=sample.labels[:60], name="held out")

    trained = fit(sample, test, folds=2)

    assert trained.evaluated_on == "held out"
    assert trained.evaluation.rows == 60
    assert len(trained.data.texts) == ROWS - 60
    assert not set(trained.data.texts) & set(test.texts)
    assert set(trained.candidates) == set(CANDIDATES)


def test_data_with_too_few_rows_of_a_label_is_refused(sample: Dataset) -> None:
    rare = [(t, m) for t, m in zip(sample.texts, sample.labels, strict=True) if m != "neutral"]
    texts, labels = zip(*rare, strict=True)

    with pytest.raises(DataError, match="only 0 neutral, and each label needs at least 5"):
        fit(replace(sample, texts=texts, labels=labels), None, folds=5)


def test_of_joined_data_the_first_says_what_a_text_is(sample: Dataset) -> None:
    corrected = replace(sample, texts=sample.texts[:1], labels=("none of them",), name="corrected")

    both = joined([corrected, sample]).unique()

    assert both.labels[0] == "none of them"
    assert len(both.texts) == ROWS
    assert both.duplicates == 1
    assert both.name == f"corrected, {sample.name}"


def test_texts_that_are_held_out_are_left_out_and_counted(sample: Dataset) -> None:
    left = sample.unseen(sample.texts[:10])

    assert left.texts == sample.texts[10:]
    assert left.duplicates == 10


def test_the_sample_holds_no_text_of_the_evaluation_set() -> None:
    held_out = evaluation.read()

    assert not set(held_out.texts) & set(read(SAMPLE).texts)
    assert len(set(held_out.texts)) == len(held_out.texts)
    assert all(held_out.labels.count(label) == 100 for label in LABELS)


def test_the_plots_are_pictures(tmp_path: Path) -> None:
    evaluation: Evaluation = measure(TRUE, PROBABILITIES)

    for name, figure in (("a", confusion(evaluation)), ("b", calibration(evaluation))):
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_mlflow_gets_one_row_of_the_contract_for_each_row_of_a_frame(
    sample: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "model.skops"
    skops.io.dump(CANDIDATES[BASELINE]().fit(sample.texts, sample.labels), path)
    frame = pd.DataFrame({"text": ["I love it", "awful"], "id": [1, 2]}, index=[7, 9])

    answer = _load_pyfunc(str(path)).predict(frame)

    assert list(answer.columns) == ["label", *LABELS, "score"]
    assert answer.index.tolist() == [7, 9]
    assert answer["score"].tolist() == pytest.approx(
        (answer["positive"] - answer["negative"]).tolist()
    )


def test_settings_name_several_files_between_commas() -> None:
    settings = TrainingSettings(data="one.csv, two.tsv")

    assert settings.paths == [Path("one.csv"), Path("two.tsv")]


def test_a_registry_that_is_away_is_said_at_once() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(TemporaryError, match=r"does not answer.*MOODSTREAM_MLFLOW_URL"):
            Registry(address)
