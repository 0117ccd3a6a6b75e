"""The scoring stage: which posts the model may see, and which of them a rejected request is to be
blamed on.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from services.consumer.batch import Batch, DeadLetter, ScoredBatch
from services.core.contract import LABELS, MAX_TEXTS_PER_REQUEST
from services.core.errors import TemporaryError
from services.core.inference import FailedTextsError, RejectedTextsError, Scored

Score = Callable[[Sequence[str]], Scored]

_NOTHING = np.empty((0, len(LABELS)), dtype=np.float32)


def score_batch(
    batch: Batch,
    score: Score,
    ready: Callable[[], bool],
    languages: Collection[str],
) -> ScoredBatch:
    """Scores the posts in the model's languages; a text that the model rejects becomes a dead
    letter.

    Raises TemporaryError when the model is to blame, or when its version changed between two
    requests of one batch.
    """
    wanted = [i for i, post in enumerate(batch.posts) if post.language in languages]
    unscored = [i for i, post in enumerate(batch.posts) if post.language not in languages]
    answers: list[Scored] = []
    scored: list[int] = []
    dead: list[DeadLetter] = list(batch.dead_letters)
    todo = [
        wanted[start : start + MAX_TEXTS_PER_REQUEST]
        for start in range(0, len(wanted), MAX_TEXTS_PER_REQUEST)
    ]
    while todo:
        indexes = todo.pop(0)
        try:
            answer = score([batch.posts[i].text for i in indexes])
        except (RejectedTextsError, FailedTextsError) as exc:
            if isinstance(exc, FailedTextsError) and not ready():
                raise TemporaryError(f"the predictor fails and is not ready: {exc}") from exc
            if len(indexes) > 1:
                half = len(indexes) // 2
                todo[:0] = [indexes[:half], indexes[half:]]
            else:
                record = batch.records[indexes[0]]
                dead.append(DeadLetter(record, "score", "rejected_by_model", str(exc)[:500]))
            continue
        answers.append(answer)
        scored.extend(indexes)
    versions = {(answer.model_name, answer.model_version) for answer in answers}
    if len(versions) > 1:
        raise TemporaryError("the served model changed in the middle of a batch")
    name, version = versions.pop() if versions else ("", "")
    probabilities = (
        np.concatenate([answer.probabilities for answer in answers]) if answers else _NOTHING
    )
    return ScoredBatch(batch, scored, unscored, probabilities, name, version, dead)
