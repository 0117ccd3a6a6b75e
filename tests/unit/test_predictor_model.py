"""The served model beside its addresses: a scoring that never ends is seen from outside."""

import asyncio
import warnings
from collections.abc import Sequence
from threading import Event, Thread
from typing import Any

import numpy as np

from services.core.contract import Probabilities

with warnings.catch_warnings():
    # kserve and what it imports use what newer libraries deprecate.
    warnings.simplefilter("ignore")
    from services.predictor.model import ServedModel

WAIT_SECONDS = 10


class BlockingModel:
    """Scores when it is let."""

    version = "1"

    def __init__(self) -> None:
        self.began, self.go_on = Event(), Event()

    def predict(self, texts: Sequence[str]) -> Probabilities:
        self.began.set()
        assert self.go_on.wait(WAIT_SECONDS)
        return np.full((len(texts), 3), 1 / 3, np.float32)


def test_a_scoring_that_takes_longer_than_a_minute_is_a_reason_to_restart() -> None:
    now = 100.0
    blocking: Any = BlockingModel()
    model = ServedModel("sentiment", blocking, clock=lambda: now)
    scoring = Thread(target=lambda: asyncio.run(model.score(["a"])))

    idle = model.problem()
    scoring.start()
    assert blocking.began.wait(WAIT_SECONDS)
    now = 159.0
    slow = model.problem()
    now = 161.0
    stuck = model.problem()
    blocking.go_on.set()
    scoring.join(WAIT_SECONDS)
    done = model.problem()

    assert (idle, slow, done) == (None, None, None)
    assert stuck == "one request has been scored for more than 60 s"
