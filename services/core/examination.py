"""Looks at a version's files where it is to be served: loads it, tries it, measures it.

A version's folder is what MLflow 3 logs for a python_function model:

    MLmodel                      YAML: `signature` (JSON in strings), `metadata`
    data/model.skops             the pipeline
    requirements.txt             one pinned package a line
    input_example.json           {"columns": ["text"], "data": [["a text"], ...]}

Training adds `metadata: {example_output: [[p, p, p], ...]}`: what the model said about the input
example when it was logged, in the order of LABELS.

Whoever may register a version may write these files, so whatever is in them ends in a failed check,
never in an exception.
"""

import json
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from sklearn.metrics import recall_score

from services.core.contract import (
    INPUT_NAME,
    LABEL_OUTPUT,
    LABELS,
    SCORE_OUTPUT,
    Probabilities,
)
from services.core.evaluation import EvaluationSet
from services.core.gate import Check, Examination, Example
from services.core.model import MODEL_FILE, ModelError, SentimentModel, load_pipeline

PACKAGES: Final = ("scikit-learn", "skops", "numpy", "scipy")
"""What a model file depends on, by version."""
SIGNATURE: Final = {
    "inputs": [("string", INPUT_NAME)],
    "outputs": [
        ("string", LABEL_OUTPUT),
        *(("float", label) for label in LABELS),
        ("float", SCORE_OUTPUT),
    ],
}
"""Type and name of each column, as MLflow spells them."""
OUTPUT_KEY: Final = "example_output"
"""In the metadata of MLmodel."""

_MLMODEL: Final = "MLmodel"
_TOLERANCE: Final = 1e-4
_MAX_UNPACKED_BYTES: Final = 500 * 1024 * 1024
_MAX_SIDE_BYTES: Final = 10 * 1024 * 1024
"""Of each of the files beside the model."""
_MAX_EXAMPLES: Final = 1_000
_BATCH_TEXTS: Final = 512


class _FailedError(Exception):
    """A check fails; the message says why and what to do."""


def examine(folder: Path, evaluation: EvaluationSet) -> Examination:
    """Everything about the version in `folder` that can be told without serving it. Stops at the
    first check that fails.
    """
    checks: list[Check] = []

    def passes(name: str, look: Callable[[], str]) -> bool:
        try:
            checks.append(Check(name, True, look()))
        except (_FailedError, ModelError) as exc:
            checks.append(Check(name, False, str(exc)))
        except Exception as exc:  # whatever hostile files lead to
            checks.append(Check(name, False, f"{type(exc).__name__}: {str(exc)[:300]}"))
        return checks[-1].passed

    found: dict[str, Any] = {}

    def artifact() -> str:
        found["model"] = _model(folder)
        return "a skops file with trusted types only"

    def contract() -> str:
        found["mlmodel"] = _mlmodel(folder)
        _check_signature(found["mlmodel"])
        return "signature and labels are the contract's"

    def versions() -> str:
        return _check_versions(folder)

    def example() -> str:
        found["example"] = _example(folder, found["mlmodel"], found["model"])
        return f"the {len(found['example'].texts)} logged examples get the logged output"

    looks = {"artifact": artifact, "contract": contract, "versions": versions, "example": example}
    if not all(passes(name, look) for name, look in looks.items()):
        return Examination(tuple(checks), None, None)
    try:
        macro_recall = _macro_recall(found["model"], evaluation)
    except Exception as exc:  # it fails on posts that it was not logged with
        checks[-1] = Check("example", False, f"it fails on the evaluation set: {exc!r}"[:300])
        return Examination(tuple(checks), None, None)
    return Examination(tuple(checks), macro_recall, found["example"])


def _model(folder: Path) -> SentimentModel:
    path = folder / MODEL_FILE
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
        if size > _MAX_UNPACKED_BYTES:
            raise _FailedError(
                f"{MODEL_FILE} unpacks to {size // 1024**2} MiB, over the limit of "
                f"{_MAX_UNPACKED_BYTES // 1024**2}; train a smaller model"
            )
    return SentimentModel(load_pipeline(path), folder.name)


def _side_file(folder: Path, name: str) -> str:
    path = folder / name
    if not path.is_file():
        raise _FailedError(f"{name} is missing; register a version that training has logged")
    if path.stat().st_size > _MAX_SIDE_BYTES:
        raise _FailedError(f"{name} is over {_MAX_SIDE_BYTES // 1024**2} MiB")
    return path.read_text(encoding="utf-8")


def _mlmodel(folder: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(_side_file(folder, _MLMODEL))
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise _FailedError(f"{_MLMODEL} is not YAML: {exc}") from exc
    if not isinstance(content, dict):
        raise _FailedError(f"{_MLMODEL} holds no settings")
    return content


def _check_signature(mlmodel: dict[str, Any]) -> None:
    signature = mlmodel.get("signature")
    for part, expected in SIGNATURE.items():
        try:
            columns = json.loads(signature[part])  # type: ignore[index]  # what is no mapping fails
            found = [(column["type"], column["name"]) for column in columns]
        except (KeyError, TypeError, ValueError):
            raise _FailedError(
                f"the signature has no {part} that can be read; log the model as training does"
            ) from None
        if found != expected:
            raise _FailedError(
                f"the signature's {part} are {_columns(found)}, the contract says "
                f"{_columns(expected)}"
            )


def _columns(columns: list[tuple[str, str]]) -> str:
    return ", ".join(f"{name} ({kind})" for kind, name in columns)[:300] or "none"


def _check_versions(folder: Path) -> str:
    pins = dict(
        line.split("==", 1)
        for line in _side_file(folder, "requirements.txt").splitlines()
        if "==" in line
    )
    pins = {name.strip().lower(): version.strip() for name, version in pins.items()}
    installed = {name: metadata.version(name) for name in PACKAGES}
    wrong = [
        f"{name} {pins.get(name, 'unknown')} instead of {version}"
        for name, version in installed.items()
        if pins.get(name) != version
    ]
    if wrong:
        raise _FailedError(
            f"it was trained with {', '.join(wrong)}; train it again with this release"
        )
    return ", ".join(f"{name} {version}" for name, version in installed.items())


def _example(folder: Path, mlmodel: dict[str, Any], model: SentimentModel) -> Example:
    try:
        logged = json.loads(_side_file(folder, "input_example.json"))
        column = logged["columns"].index(INPUT_NAME)
        texts = tuple(row[column] for row in logged["data"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise _FailedError("the logged input example cannot be read; train it again") from None
    if not 0 < len(texts) <= _MAX_EXAMPLES or not all(isinstance(text, str) for text in texts):
        raise _FailedError(f"the logged input example must be 1 to {_MAX_EXAMPLES} texts")
    expected = _rows(mlmodel, len(texts))
    output = _checked(model.predict(texts))
    furthest = float(np.abs(output - expected).max())
    if not furthest <= _TOLERANCE:
        raise _FailedError(
            f"the logged input example gets an output that is {furthest:.4f} off the logged one; "
            "train it again with this release"
        )
    return Example(texts, tuple((row[0], row[1], row[2]) for row in expected.tolist()))


def _rows(mlmodel: dict[str, Any], count: int) -> Probabilities:
    logged = mlmodel.get("metadata")
    output = logged.get(OUTPUT_KEY) if isinstance(logged, dict) else None
    try:
        rows = np.asarray(output, dtype=np.float32)
    except (TypeError, ValueError):
        rows = np.empty(0, np.float32)
    if rows.shape != (count, len(LABELS)) or not np.isfinite(rows).all():
        raise _FailedError(
            f"MLmodel has no {OUTPUT_KEY} of {count} times {len(LABELS)} probabilities; "
            "register a version that training has logged"
        )
    return rows


def _checked(probabilities: Probabilities) -> Probabilities:
    if not np.isfinite(probabilities).all():
        raise _FailedError("it answers with numbers that are no probabilities")
    return probabilities


def _macro_recall(model: SentimentModel, evaluation: EvaluationSet) -> float:
    texts = evaluation.texts
    batches = [
        _checked(model.predict(texts[start : start + _BATCH_TEXTS]))
        for start in range(0, len(texts), _BATCH_TEXTS)
    ]
    predicted = np.asarray(LABELS)[np.concatenate(batches).argmax(axis=1)]
    return float(
        recall_score(evaluation.labels, predicted, labels=LABELS, average="macro", zero_division=0)
    )
