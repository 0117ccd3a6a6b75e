"""Trains the sentiment model: reads labelled posts, compares the candidates by cross-validation,
fits the best on everything, measures it, registers it, and lets the gate judge it as the promoter
will: only a version that passes gets an alias.

Called by `python -m training`, by the command line and by a Kubernetes Job.
"""

import logging
import platform
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np
from sklearn.metrics import recall_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # no stubs

from services.core import evaluation as evaluation_set
from services.core.contract import CHALLENGER, CHAMPION, LABELS, Probabilities
from services.core.evaluation import EvaluationSet
from services.core.examination import PACKAGES, examine
from services.core.gate import Check, Examination, GateSettings, Verdict, judge
from services.core.model import SentimentModel
from services.core.settings import PostgresSettings
from training import plots
from training.candidates import BASELINE, CANDIDATES
from training.corrections import corrections
from training.evaluate import Evaluation, evaluate, measure
from training.readers import DataError, Dataset, joined, read, read_all
from training.registry import Registry, Run
from training.settings import TrainingSettings

log = logging.getLogger(__name__)

_SEED: Final = 0
_MAX_PARAMETER_CHARS: Final = 500


@dataclass(frozen=True)
class CrossValidation:
    """A candidate on data that each of its fits had not seen."""

    macro_recall: float
    """Mean over the folds."""
    macro_recall_sd: float
    """Standard deviation over the folds."""
    standard_error: float
    """Of the mean."""
    evaluation: Evaluation
    """Of every row, scored by the fit that had not seen it."""


@dataclass(frozen=True)
class Trained:
    """A fitted model and how good it is."""

    candidate: str
    pipeline: Pipeline
    candidates: Mapping[str, CrossValidation]
    evaluation: Evaluation
    evaluated_on: str
    """Name of the test data, or cross-validation."""
    data: Dataset


@dataclass(frozen=True)
class Result:
    """What a training run has left in the registry."""

    version: str
    alias: str | None
    """What the version is called now; None: the gate has refused it."""
    candidate: str
    candidates: Mapping[str, CrossValidation]
    evaluation: Evaluation
    evaluated_on: str
    rows: int
    """Learned from."""
    duplicates: int
    """Rows left out because their text occurs before, in the test data or in the evaluation
    set.
    """
    corrections: int
    """Rows learned from that people have corrected."""
    gate: str
    """What the gate said, in a sentence."""
    checks: tuple[Check, ...]
    """What it looked at."""
    evaluation_macro_recall: float | None
    """On the evaluation set; None when it could not be measured."""
    seconds: float


def train(
    settings: TrainingSettings,
    registry: Registry,
    gate: GateSettings,
    postgres: PostgresSettings | None = None,
) -> Result:
    """The whole run; only corrections need PostgreSQL. Raises DataError when the data cannot be
    used, TemporaryError when MLflow or, with corrections, PostgreSQL is away.
    """
    started = time.monotonic()
    held_out = evaluation_set.read(settings.evaluation)
    test = read(settings.test) if settings.test else None
    data, corrected = read_all(settings.paths), frozenset[str]()
    if settings.corrections and postgres is not None:
        found = corrections(postgres)
        corrected = frozenset(found.texts)
        # Before the files, because the first of each text is kept.
        data = joined([found, data]) if corrected else data
    trained = fit(data.unseen(held_out.texts), test, settings.folds)
    learned = len(corrected.intersection(trained.data.texts))
    version = registry.register(_run(trained, settings, learned), trained.pipeline)
    log.info("training.registered", extra={"version": version})
    examination, verdict = _judged(registry, version, held_out, gate)
    registry.record(version, examination, verdict)
    alias = None
    if verdict.passed:
        first = CHAMPION not in registry.aliases()
        alias = CHAMPION if first or settings.promote else CHALLENGER
        registry.set_alias(alias, version)
    log.info(
        "training.judged", extra={"version": version, "alias": alias, "reason": verdict.reason}
    )
    return Result(
        version=version,
        alias=alias,
        candidate=trained.candidate,
        candidates=trained.candidates,
        evaluation=trained.evaluation,
        evaluated_on=trained.evaluated_on,
        rows=len(trained.data.texts),
        duplicates=trained.data.duplicates,
        corrections=learned,
        gate=verdict.reason,
        checks=verdict.checks,
        evaluation_macro_recall=examination.macro_recall,
        seconds=time.monotonic() - started,
    )


def _judged(
    registry: Registry,
    version: str,
    held_out: EvaluationSet,
    gate: GateSettings,
) -> tuple[Examination, Verdict]:
    """What the promoter will find and say, from the files that it will fetch."""
    champion = registry.aliases().get(CHAMPION)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        candidate = examine(registry.fetch(version, home), held_out)
        beside = examine(registry.fetch(champion, home), held_out) if champion else None
    return candidate, judge(candidate, beside, gate)


def fit(data: Dataset, test: Dataset | None, folds: int) -> Trained:
    """The best candidate, fitted on all of the data that is not in the test data."""
    data = data.without(test) if test else data.unique()
    _check(data, folds)
    candidates = {name: cross_validate(name, data, folds) for name in CANDIDATES}
    best = choose(candidates)
    pipeline = _fitted(best, data.texts, data.labels)
    evaluation = (
        evaluate(SentimentModel(pipeline, "unregistered"), test)
        if test
        else candidates[best].evaluation
    )
    return Trained(
        best, pipeline, candidates, evaluation, test.name if test else "cross-validation", data
    )


def cross_validate(candidate: str, data: Dataset, folds: int) -> CrossValidation:
    """Fits the candidate once for each fold, without the fold's rows."""
    texts, labels = np.asarray(data.texts, dtype=object), np.asarray(data.labels)
    probabilities: Probabilities = np.empty((len(texts), len(LABELS)), np.float32)
    recalls = []
    for fitted, held_out in StratifiedKFold(folds, shuffle=True, random_state=_SEED).split(
        texts, labels
    ):
        pipeline = _fitted(candidate, texts[fitted], labels[fitted])
        model = SentimentModel(pipeline, candidate)
        probabilities[held_out] = model.predict(texts[held_out].tolist())
        predicted = np.asarray(LABELS)[probabilities[held_out].argmax(axis=1)]
        recalls.append(recall_score(labels[held_out], predicted, average="macro"))
    deviation = float(np.std(recalls, ddof=1))
    result = CrossValidation(
        macro_recall=float(np.mean(recalls)),
        macro_recall_sd=deviation,
        standard_error=deviation / folds**0.5,
        evaluation=measure(data.labels, probabilities),
    )
    log.info(
        "training.candidate",
        extra={"candidate": candidate, "macro_recall": round(result.macro_recall, 4)},
    )
    return result


def _fitted(candidate: str, texts: Sequence[str], labels: Sequence[str]) -> Pipeline:
    # Several threads cost more than they bring on sparse data, twenty times so on a busy machine.
    with threadpool_limits(1):
        return CANDIDATES[candidate]().fit(texts, labels)


def choose(candidates: Mapping[str, CrossValidation]) -> str:
    """The best candidate; the baseline unless it is beaten by more than its own standard error."""
    best = max(candidates, key=lambda name: candidates[name].macro_recall)
    baseline = candidates[BASELINE]
    beaten = candidates[best].macro_recall > baseline.macro_recall + baseline.standard_error
    return best if beaten else BASELINE


def _check(data: Dataset, folds: int) -> None:
    counts = Counter(data.labels)
    rare = [f"{counts[label]} {label}" for label in LABELS if counts[label] < folds]
    if rare:
        raise DataError(
            f"{data.name} has too few rows to learn from: only {', '.join(rare)}, "
            f"and each label needs at least {folds}"
        )


def _run(trained: Trained, settings: TrainingSettings, corrected: int) -> Run:
    versions = {name: metadata.version(name) for name in PACKAGES}
    data = trained.data
    tags = {
        "candidate": trained.candidate,
        "data.name": data.name[:_MAX_PARAMETER_CHARS],
        "data.sha256": data.sha256,
        "evaluated_on": trained.evaluated_on,
        "macro_recall": f"{trained.evaluation.macro_recall:.4f}",
        "version.moodstream": _own_version(),
        "version.python": platform.python_version(),
        **{f"version.{name}": version for name, version in versions.items()},
    }
    if commit := _git_commit():
        tags["git_commit"] = commit
    return Run(
        name=trained.candidate,
        parameters={
            "data.format": data.format[:_MAX_PARAMETER_CHARS],
            "data.rows": str(len(data.texts)),
            "data.duplicates": str(data.duplicates),
            "data.absent": str(data.absent),
            "data.corrections": str(corrected),
            "folds": str(settings.folds),
            **_hyperparameters(trained.pipeline),
        },
        metrics=_metrics(trained),
        plots={
            "confusion_matrix.png": plots.confusion(trained.evaluation),
            "calibration.png": plots.calibration(trained.evaluation),
        },
        requirements=tuple(f"{name}=={version}" for name, version in versions.items()),
        tags=tags,
    )


def _hyperparameters(pipeline: Pipeline) -> dict[str, str]:
    return {
        name: str(value)
        for name, value in pipeline.get_params().items()
        if "__" in name and isinstance(value, str | int | float | None)
    }


def _metrics(trained: Trained) -> dict[str, float]:
    evaluation = trained.evaluation
    metrics = {
        "rows": evaluation.rows,
        "accuracy": evaluation.accuracy,
        "macro_recall": evaluation.macro_recall,
        "macro_f1": evaluation.macro_f1,
        "calibration_error": evaluation.calibration_error,
    }
    for label, figures in evaluation.per_label.items():
        metrics |= {f"{label}.{name}": value for name, value in asdict(figures).items()}
    for name, result in trained.candidates.items():
        metrics[f"cv.{name}.macro_recall"] = result.macro_recall
        metrics[f"cv.{name}.macro_recall_sd"] = result.macro_recall_sd
    return metrics


def _own_version() -> str:
    try:
        return metadata.version("moodstream")
    except metadata.PackageNotFoundError:
        return "not installed"


def _git_commit() -> str | None:
    """The commit of the code, where it is a checkout."""
    git = shutil.which("git")
    if git is None:
        return None
    answer = subprocess.run(
        [git, "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or None if answer.returncode == 0 else None
