"""Why: the words that move the served model, in one sentence and in a stretch of time.

Both ask the served model itself over the protocol that scores the posts, so they hold for any model
that can be served, and are never those of another version:

- in a sentence, a word's weight is what the score loses when the word is left out (occlusion, after
  Zeiler and Fergus 2014; for text Li, Monroe and Jurafsky 2016, arXiv:1612.08220);
- over many posts, it is the score of the word alone less the score of an empty text; what it does
  there is how far the posts that have it are from the average. Words that are everywhere move
  nothing, whatever they weigh.
"""

import re
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from threading import BoundedSemaphore, Lock
from typing import Any, Final, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.core.contract import labels_of, scores_of
from services.core.errors import TemporaryError
from services.core.events import ALL_TOPICS, Storable
from services.core.inference import FailedTextsError, InferenceClient, RejectedTextsError, Scored
from services.core.settings import InferenceSettings
from services.dashboard import problems
from services.dashboard.access import viewer
from services.dashboard.history import BadRequestError, Moment, Reader, Word
from services.dashboard.rules import TooLargeError

_TEXT_CHARACTERS: Final = 2_000
_WORDS_LEFT_OUT: Final = 400
_TRIED_AT_ONCE: Final = 4
"""Each asks the predictor for up to 401 texts; scoring posts comes first."""
_POSTS_READ: Final = 3_000
_WORDS_ASKED: Final = 600
_WORDS_SHOWN: Final = 15
_FEWEST_POSTS: Final = 2
_LEAST_WEIGHT: Final = 0.15
_WEIGHTS_KEPT: Final = 20_000
_ANSWERS_KEPT: Final = 64
_ANSWER_SECONDS: Final = 20.0
_ASK_SECONDS: Final = 5.0

_SIGN: Final = "[\u2600-\u27bf\u2b00-\u2bff\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff]"
_PICTURE: Final = rf"{_SIGN}[\ufe0f\U0001f3fb-\U0001f3ff]*"
"""A sign with its variation selector or skin tone; several, joined by a zero-width joiner, are one
emoji.
"""
_TOKEN: Final = re.compile(
    rf"""(?P<skipped>https?:\S+ | www\.\S+ | @\w+)
    | (?P<hashtag>\#\w*[^\W\d_]\w*)
    | (?P<emoji>{_PICTURE}(?:\u200d{_PICTURE})*
        | [<>]?[:;=][-'o^]?[)(DpP/|*]+(?!\w) | <3)
    | (?P<word>[^\W\d_][^\W_]*(?:['’][^\W\d_]+)*)""",
    re.VERBOSE,
)  # fmt: skip

_MOST_BYTES: Final = 64 * 1024
Kind = Literal["word", "hashtag", "emoji"]


class Weighed(BaseModel):
    """A word of a sentence."""

    model_config = ConfigDict(frozen=True)

    start: int
    """First character, in UTF-16 code units, as JavaScript counts."""
    end: int
    weight: float
    """What the score loses without it, -2 to +2: above 0 it speaks for positive."""


class Tried(BaseModel):
    """What the model says of a sentence, and why."""

    model_config = ConfigDict(frozen=True)

    label: str
    p_negative: float
    p_neutral: float
    p_positive: float
    score: float
    model_version: str
    words: list[Weighed]


class Sentence(BaseModel):
    """A text to be tried; it is not kept."""

    model_config = ConfigDict(extra="forbid")

    text: Storable = Field(min_length=1, max_length=_TEXT_CHARACTERS)


class Driver(BaseModel):
    """A word that moves the score of a stretch of time."""

    model_config = ConfigDict(frozen=True)

    word: str
    kind: Kind
    posts: int
    """Posts that have it, of those read."""
    weight: float
    """The score of the word alone less that of an empty text, -2 to +2."""
    effect: float
    """How far the posts with it move the average of all that were read."""


class Drivers(BaseModel):
    """What drives a stretch of time."""

    model_config = ConfigDict(frozen=True)

    model_version: str | None
    """None where there was nothing to ask about."""
    posts: int
    """Read: the newest 3,000 at most."""
    positive: list[Driver]
    negative: list[Driver]


def tokens(text: str) -> list[tuple[str, Kind, int, int]]:
    """Words, hashtags and emoji with their place in the text; links and mentions are left out."""
    return [
        (match.group(), match.lastgroup, match.start(), match.end())  # type: ignore[misc]
        for match in _TOKEN.finditer(text)
        if match.lastgroup != "skipped"
    ]


class Explainer:
    """Asks the served model. Thread-safe; remembers the weights of the version that it asked
    last.
    """

    def __init__(
        self,
        inference: InferenceSettings,
        reader: Reader,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        settings = inference.model_copy(update={"timeout_seconds": _ASK_SECONDS})
        self._client = InferenceClient(settings)
        self._reader = reader
        self._clock = clock
        # One at a time: what many people look at is asked for once, and scoring comes first.
        self._lock = Lock()
        self._version: str | None = None
        self._weights: OrderedDict[str, float] = OrderedDict()
        self._answers: OrderedDict[tuple[object, ...], tuple[float, Drivers]] = OrderedDict()

    def sentence(self, text: str) -> Tried:
        """What the model says of a text, and each word's part in it: of the first 400 words.

        Raises TemporaryError when the predictor is away.
        """
        found = tokens(text)[:_WORDS_LEFT_OUT]
        without = [f"{text[:start]} {text[end:]}" for _, _, start, end in found]
        scored = self._score([text, *without])
        scores = scores_of(scored.probabilities).tolist()
        negative, neutral, positive = scored.probabilities[0].tolist()
        return Tried(
            label=labels_of(scored.probabilities[:1])[0],
            p_negative=negative,
            p_neutral=neutral,
            p_positive=positive,
            score=scores[0],
            model_version=scored.model_version,
            words=[
                Weighed(
                    start=_utf16(text[:start]),
                    end=_utf16(text[:end]),
                    weight=scores[0] - score,
                )
                for (_, _, start, end), score in zip(found, scores[1:], strict=True)
            ],
        )

    def drivers(self, topic: str, since: datetime | None, until: datetime | None) -> Drivers:
        """The words that drive a topic up and down; without `since`, in the last 24 hours.

        Raises TemporaryError when the predictor or the database is away.
        """
        key = (topic, since, until)
        with self._lock:
            kept = self._answers.get(key)
            if kept is not None and self._clock() - kept[0] < _ANSWER_SECONDS:
                return kept[1]
            answer = self._drivers(topic, since, until)
            self._answers[key] = (self._clock(), answer)
            self._answers.move_to_end(key)
            while len(self._answers) > _ANSWERS_KEPT:
                self._answers.popitem(last=False)
            return answer

    def _drivers(self, topic: str, since: datetime | None, until: datetime | None) -> Drivers:
        posts = self._posts(topic, since, until)
        average = sum(score for _, score in posts) / max(1, len(posts))
        counts: Counter[tuple[str, Kind]] = Counter()
        effects: defaultdict[str, float] = defaultdict(float)
        for text, score in posts:
            found = {(word.lower(), kind) for word, kind, _, _ in tokens(text)}
            counts.update(found)
            for word, _ in found:
                effects[word] += (score - average) / len(posts)
        asked = [item for item in counts.most_common(_WORDS_ASKED) if item[1] >= _FEWEST_POSTS]
        if not asked:
            return Drivers(model_version=None, posts=len(posts), positive=[], negative=[])
        weights = self._weigh([word for (word, _), _ in asked])
        drivers = [
            Driver(
                word=word,
                kind=kind,
                posts=count,
                weight=round(weights[word], 4),
                effect=round(effects[word], 6),
            )
            for (word, kind), count in asked
            if abs(weights[word]) >= _LEAST_WEIGHT and weights[word] * effects[word] > 0
        ]
        return Drivers(
            model_version=self._version,
            posts=len(posts),
            positive=_strongest(driver for driver in drivers if driver.weight > 0),
            negative=_strongest(driver for driver in drivers if driver.weight < 0),
        )

    def _posts(
        self, topic: str, since: datetime | None, until: datetime | None
    ) -> list[tuple[str, float]]:
        """Texts and scores of the newest posts."""
        now = datetime.now(UTC)
        parameters: dict[str, Any] = {
            "all": ALL_TOPICS,
            "topic": topic,
            "since": since or now - timedelta(hours=24),
            "until": until or now + timedelta(days=1),
            # A topic that is rare among the newest posts is looked for among ten times as many.
            "examined": 10 * _POSTS_READ,
            "most": _POSTS_READ,
            "characters": _TEXT_CHARACTERS,
        }
        return [(row["text"], row["score"]) for row in self._reader.rows(_POSTS, parameters)]

    def _weigh(self, words: Sequence[str]) -> dict[str, float]:
        """Each word's weight, asked for where it is not known."""
        missing = [word for word in words if word not in self._weights]
        scored = self._score(["", *missing])
        if scored.model_version != self._version:
            self._weights.clear()
            self._version = scored.model_version
            if len(missing) < len(words):
                missing = list(words)
                scored = self._score(["", *missing])
        empty, *scores = scores_of(scored.probabilities).tolist()
        self._weights.update(
            (word, score - empty) for word, score in zip(missing, scores, strict=True)
        )
        weights = {word: self._weights[word] for word in words}
        while len(self._weights) > _WEIGHTS_KEPT:
            self._weights.popitem(last=False)
        return weights

    def _score(self, texts: Sequence[str]) -> Scored:
        try:
            return self._client.score(texts)
        except (RejectedTextsError, FailedTextsError) as exc:
            raise TemporaryError(f"the predictor cannot score this: {exc}") from exc


_POSTS: Final = """
SELECT left(text, %(characters)s) AS text, score FROM (
    SELECT text, topics, score FROM posts WHERE created_at >= %(since)s AND created_at < %(until)s
    ORDER BY created_at DESC LIMIT %(examined)s
) AS newest
WHERE score IS NOT NULL AND (%(topic)s = %(all)s OR %(topic)s = ANY (topics))
LIMIT %(most)s
"""


def router(explainer: Explainer) -> APIRouter:
    """The addresses of both, for those who may read."""
    api = APIRouter(prefix="/api", dependencies=[Depends(viewer)], tags=["explain"])

    slots = BoundedSemaphore(_TRIED_AT_ONCE)

    def tried(text: str) -> Tried:
        # Not waited for: it would keep a thread from those who ask for something else.
        if not slots.acquire(blocking=False):
            raise TemporaryError("too many sentences are being tried; ask again in a moment")
        try:
            return explainer.sentence(text)
        finally:
            slots.release()

    body = {"content": {"application/json": {"schema": Sentence.model_json_schema()}}}

    @api.post(
        "/try",
        openapi_extra={"requestBody": {"required": True} | body},
        responses=problems.documented(413),
    )
    async def try_sentence(request: Request) -> Tried:
        """The model's word on a sentence, and each word's part in it. Nothing is stored."""
        # Not a parameter: FastAPI would read a body of any size before it asks who sends it.
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BYTES:
                raise TooLargeError(f"a sentence has at most {_MOST_BYTES // 1024} KB")
        try:
            sentence = Sentence.model_validate_json(bytes(body))
        except ValidationError as exc:
            error = exc.errors(include_url=False, include_input=False, include_context=False)[0]
            raise BadRequestError(f"text: {error['msg']}") from None
        return await run_in_threadpool(tried, sentence.text)

    @api.get("/drivers")
    def get_drivers(
        topic: Word = ALL_TOPICS,
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> Drivers:
        """The words, hashtags and emoji that drive positive and negative."""
        return explainer.drivers(topic, since, until)

    return api


def _strongest(drivers: Iterable[Driver]) -> list[Driver]:
    ordered = sorted(drivers, key=lambda driver: -abs(driver.effect))
    return ordered[:_WORDS_SHOWN]


def _utf16(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
