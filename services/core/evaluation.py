"""The evaluation set: labelled posts that every version is measured on before it is served, and
that no training learns from.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.core.contract import LABELS
from services.core.errors import SettingsError

EVALUATION: Final = Path(__file__).with_name("evaluation.csv")
"""The project's own."""


@dataclass(frozen=True)
class EvaluationSet:
    """n texts and their labels."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]


def read(path: Path | None = None) -> EvaluationSet:
    """A CSV with the columns text and label; without a path, the project's own. Raises
    SettingsError naming the row that cannot be used.
    """
    path = path or EVALUATION
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise SettingsError(f"the evaluation set {path} cannot be read: {exc}") from exc
    for line, row in enumerate(rows, start=2):
        if not row.get("text") or row.get("label") not in LABELS:
            raise SettingsError(
                f"the evaluation set {path}, row {line}: expected the columns text and label, "
                f"with a label of {', '.join(LABELS)}"
            )
    missing = set(LABELS) - {row["label"] for row in rows}
    if missing:
        raise SettingsError(f"the evaluation set {path} has no {', '.join(sorted(missing))} post")
    return EvaluationSet(tuple(row["text"] for row in rows), tuple(row["label"] for row in rows))
