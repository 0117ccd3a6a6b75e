"""What the model is worth for groups of posts: `python -m tests.bench.groups`.

The candidate that `make demo` serves, on the project's sample, each post scored by a fit that had
not seen it (five folds). A group of n posts is known to about 0.5 / sqrt(n).
"""

import csv
import re
import sys
from collections.abc import Callable
from typing import Final

import numpy as np
from sklearn.metrics import recall_score
from sklearn.model_selection import StratifiedKFold

from services.core.model import SentimentModel
from training.candidates import BASELINE, CANDIDATES
from training.settings import SAMPLE

_FOLDS: Final = 5
_SEED: Final = 0
_EMOJI: Final = re.compile("[\U0001f000-\U0001ffff\u2600-\u27bf]")
_NEGATION: Final = re.compile(r"\b(not|no|never|cannot|\w+n['’]t)\b", re.IGNORECASE)
_SHORT_CHARACTERS: Final = 50
_LONG_CHARACTERS: Final = 90

GROUPS: Final[dict[str, Callable[[str], bool]]] = {
    "all": lambda text: True,
    "with emoji": lambda text: bool(_EMOJI.search(text)),
    "with a negation": lambda text: bool(_NEGATION.search(text)),
    "with a hashtag": lambda text: "#" in text,
    f"under {_SHORT_CHARACTERS} characters": lambda text: len(text) < _SHORT_CHARACTERS,
    f"{_LONG_CHARACTERS} characters and more": lambda text: len(text) >= _LONG_CHARACTERS,
}


def main() -> None:
    """Prints a table."""
    with SAMPLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    texts = np.asarray([row["text"] for row in rows], dtype=object)
    labels = np.asarray([row["label"] for row in rows])
    said = np.empty(len(rows), dtype=labels.dtype)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=_SEED)
    for learned, held_out in folds.split(texts, labels):
        model = SentimentModel(CANDIDATES[BASELINE]().fit(texts[learned], labels[learned]), "0")
        best = model.predict(texts[held_out].tolist()).argmax(axis=1)
        said[held_out] = np.asarray(["negative", "neutral", "positive"])[best]

    def line(name: str, chosen: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> str:
        found = [
            recall_score(labels[chosen], said[chosen], labels=[each], average="macro")
            for each in ("negative", "neutral", "positive")
        ]
        figures = " | ".join(f"{figure:.2f}" for figure in [np.mean(found), *found])
        return f"| {name} | {chosen.sum()} | {figures} |\n"

    topics = np.asarray([row["topic"] for row in rows])
    lines = [
        line(name, np.asarray([within(text) for text in texts])) for name, within in GROUPS.items()
    ]
    by_topic = [line(f"topic {topic}", topics == topic) for topic in sorted(set(topics))]
    sys.stdout.write("| posts | n | macro recall | negative | neutral | positive |\n")
    sys.stdout.write("".join(["| --- | --- | --- | --- | --- | --- |\n", *lines, *by_topic]))


if __name__ == "__main__":
    main()
