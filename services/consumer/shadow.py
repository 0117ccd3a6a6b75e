"""The shadow: a challenger scores a share of the posts that the champion has scored, so that the
two can be compared on live data. Called by the pipeline once a batch is stored.

    store thread    `offer`: samples, and leaves what it took in a small waiting room
    shadow thread   waiting room -> challenger -> PostgreSQL, on connections of its own

The champion's posts never wait for this and never fail with it: a full waiting room, a challenger
that is away, slow or talks nonsense, and a database that refuses each cost the comparison some
posts, which are counted, and nothing else.

Both times of a `shadow_batches` row are for the very same request. The champion's time for its own
batch would not do: it is for ten times the texts, and the fixed cost of a request does not scale.
So now and then, and never more often than every _MEASURE_SECONDS, the champion is asked once more
for the texts that the challenger has just scored, from this thread, with the same kind of client.
"""

import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition, Event, Thread
from types import TracebackType
from typing import Final, Protocol

from services.consumer import metrics
from services.consumer.batch import ScoredBatch
from services.core.contract import MAX_TEXTS_PER_REQUEST, Probabilities, labels_of, scores_of
from services.core.errors import TemporaryError
from services.core.inference import FailedTextsError, InferenceClient, RejectedTextsError, Scored
from services.core.postgres import Connection, connect, transaction
from services.core.settings import ChallengerSettings, InferenceSettings, PostgresSettings

log = logging.getLogger(__name__)

_REQUEST_SECONDS: Final = 5.0
_TRANSACTION_SECONDS: Final = 10.0
_AWAY_SECONDS: Final = 5.0
"""Pause before a challenger or a database that was away is looked for again."""
_GATHER_SECONDS: Final = 0.5
"""How long samples gather before they become one request: a live stream comes in batches of a few
posts, and a transaction for each would cost more than the posts.
"""
_MEASURE_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 2.0
"""How long a stop waits for the thread; past it what it was doing is given up."""
_MOST_WAITING_POSTS: Final = MAX_TEXTS_PER_REQUEST
"""Two full batches at a share of 1, half a second of the fastest stream at a share of 0.1."""

_HASHES: Final = 2**32

# Rows are added in key order, so that two consumers that meet wait for each other but never
# deadlock.
_PREDICTIONS = """
INSERT INTO shadow_predictions (source, id, champion_version, champion_label, champion_score,
                                model_name, model_version, label, p_negative, p_neutral, p_positive)
SELECT source, id, %(champion)s, champion_label, champion_score, %(name)s, %(version)s, label,
       p_negative, p_neutral, p_positive
FROM unnest(%(source)s::text[], %(id)s::text[], %(champion_label)s::sentiment[],
            %(champion_score)s::real[], %(label)s::sentiment[], %(p_negative)s::real[],
            %(p_neutral)s::real[], %(p_positive)s::real[])
    AS shadow (source, id, champion_label, champion_score, label, p_negative, p_neutral, p_positive)
ORDER BY source, id
ON CONFLICT DO NOTHING
"""

_BATCH = """
INSERT INTO shadow_batches (champion_version, challenger_version, posts, champion_seconds,
                            challenger_seconds)
VALUES (%s, %s, %s, %s, %s)
"""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A post that the challenger is to score, and what the champion said about it."""

    source: str
    id: str
    text: str
    champion_version: str
    champion_label: str
    champion_score: float


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long champion and challenger each took for one request with the same texts."""

    champion: float
    challenger: float


class Model(Protocol):
    """What is asked of a served model; InferenceClient is one."""

    def score(self, texts: Sequence[str]) -> Scored:
        """Raises RejectedTextsError, FailedTextsError or TemporaryError."""

    def ready(self) -> bool:
        """Whether it has a model loaded."""


class Sink(Protocol):
    """Where the challenger's predictions go; ShadowStore is one."""

    def write(self, posts: Sequence[Sampled], scored: Scored, seconds: Seconds | None) -> None:
        """Raises TemporaryError."""

    def close(self) -> None:
        """Lets go of what it holds."""


def is_sampled(key: bytes, share: float) -> bool:
    """Whether a post is one of the share, by its key: the same answer in every consumer and on a
    retry.
    """
    return zlib.crc32(key) < share * _HASHES


def sample(scored: ScoredBatch, share: float) -> list[Sampled]:
    """The share of a batch's scored posts, with the champion's predictions."""
    posts = scored.batch.posts
    chosen = [row for row, i in enumerate(scored.scored) if is_sampled(posts[i].key, share)]
    if not chosen:
        return []
    probabilities = scored.probabilities[chosen]
    return [
        Sampled(post.source, post.id, post.text, scored.model_version, label, score)
        for post, label, score in zip(
            (posts[scored.scored[row]] for row in chosen),
            labels_of(probabilities),
            scores_of(probabilities).tolist(),
            strict=True,
        )
    ]


class Shadow:
    """Has a share of the posts scored by the challenger, in a thread that runs while it is
    entered.
    """

    def __init__(
        self,
        champion: Model,
        challenger: Model,
        sink: Sink,
        share: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._champion, self._challenger, self._sink = champion, challenger, sink
        self._share, self._clock = share, clock
        self._waiting: list[Sampled] = []
        self._changed = Condition()
        self._open = False
        self._state = ""
        self._measured: float | None = None
        self._stop = Event()
        self._thread = Thread(target=self._run, name="shadow", daemon=True)

    def offer(self, scored: ScoredBatch) -> None:
        """Takes a sample of a stored batch, or lets it go when there is no challenger or no room.
        Returns at once.
        """
        if not self._open:
            return
        posts = sample(scored, self._share)
        if not posts:
            return
        with self._changed:
            room = len(self._waiting) + len(posts) <= _MOST_WAITING_POSTS
            if room:
                self._waiting += posts
                self._changed.notify()
        if not room:
            metrics.SHADOW_DROPPED.labels("busy").inc(len(posts))

    def __enter__(self) -> "Shadow":
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._look_for_challenger()
                while self._open and not self._stop.is_set():
                    self._serve(self._take())
            except Exception as exc:
                # No error of the shadow may end the consumer: it is said once, and tried again.
                if self._is_news(repr(exc)):
                    log.exception("shadow.failed")
            self._close()
            self._stop.wait(_AWAY_SECONDS)
        self._sink.close()

    def _look_for_challenger(self) -> None:
        self._open = self._challenger.ready()
        if not self._open and self._is_news("away"):
            log.info("shadow.without_challenger")

    def _close(self) -> None:
        """Lets go of what waits for a challenger that is not there."""
        self._open = False
        with self._changed:
            left, self._waiting = self._waiting, []
        if left:
            metrics.SHADOW_DROPPED.labels("challenger").inc(len(left))

    def _take(self) -> list[Sampled]:
        """What has gathered, all of one version of the champion; empty when told to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stop.is_set())
        if self._stop.wait(_GATHER_SECONDS):
            return []
        with self._changed:
            version = self._waiting[0].champion_version
            taken = [post for post in self._waiting if post.champion_version == version]
            self._waiting = [post for post in self._waiting if post.champion_version != version]
        return taken

    def _serve(self, posts: Sequence[Sampled]) -> None:
        """Has the posts scored and stored, or counts them as dropped."""
        if not posts:
            return
        texts = [post.text for post in posts]
        reason = "challenger"
        try:
            measuring = self._is_time_to_measure()
            scored, challenger_seconds = self._timed(self._challenger, texts)
            seconds = None
            if measuring:
                champion_seconds = self._champions(texts, posts[0].champion_version)
                if champion_seconds is not None:
                    seconds = Seconds(champion_seconds, challenger_seconds)
            reason = "database"
            self._sink.write(posts, scored, seconds)
        except RejectedTextsError as exc:
            # The champion took these texts; the next ones may do for both.
            self._drop(posts, reason, exc)
        except (FailedTextsError, TemporaryError) as exc:
            self._drop(posts, reason, exc)
            self._open = False
        except Exception:
            metrics.SHADOW_DROPPED.labels(reason).inc(len(posts))
            raise
        else:
            if self._is_news("works"):
                log.info("shadow.works")
            metrics.SHADOW_POSTS.inc(len(posts))

    def _timed(self, model: Model, texts: Sequence[str]) -> tuple[Scored, float]:
        started = self._clock()
        scored = model.score(texts)
        return scored, self._clock() - started

    def _is_time_to_measure(self) -> bool:
        """Also opens the connections that have been closed since: a handshake is not the model's
        time.
        """
        now = self._clock()
        if self._measured is not None and now - self._measured < _MEASURE_SECONDS:
            return False
        self._measured = now
        return self._champion.ready() and self._challenger.ready()

    def _champions(self, texts: Sequence[str], version: str) -> float | None:
        """The champion's seconds; None when it does not answer or is another version by now."""
        try:
            scored, seconds = self._timed(self._champion, texts)
        except (RejectedTextsError, FailedTextsError, TemporaryError):
            # The pipeline asks the same model, and says what is wrong with it.
            return None
        return seconds if scored.model_version == version else None

    def _drop(self, posts: Sequence[Sampled], reason: str, exc: Exception) -> None:
        metrics.SHADOW_DROPPED.labels(reason).inc(len(posts))
        if self._is_news(reason):
            log.warning("shadow.waiting", extra={"reason": reason, "error": str(exc)[:500]})

    def _is_news(self, state: str) -> bool:
        """Whether this is another state than the last one that was logged."""
        changed, self._state = state != self._state, state
        return changed


class ShadowStore:
    """Writes what the challenger said. Not thread-safe; opens and reopens its connection by
    itself.
    """

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        self._connection: Connection | None = None

    def write(self, posts: Sequence[Sampled], scored: Scored, seconds: Seconds | None) -> None:
        """Stores one request's predictions, in one transaction with how long both models took; a
        post that this version has scored before keeps its first row. Raises TemporaryError.
        """
        with transaction(self._open(), _TRANSACTION_SECONDS) as cursor:
            cursor.execute(_PREDICTIONS, _columns(posts, scored))
            if seconds is not None:
                cursor.execute(
                    _BATCH,
                    (
                        posts[0].champion_version,
                        scored.model_version,
                        len(posts),
                        seconds.champion,
                        seconds.challenger,
                    ),
                )

    def close(self) -> None:
        """Closes the connection, if any."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._settings, "moodstream-shadow")
        return self._connection


def _columns(posts: Sequence[Sampled], scored: Scored) -> dict[str, object]:
    rounded: Probabilities = scored.probabilities.round(6)
    negative, neutral, positive = rounded.T.tolist()
    return {
        "champion": posts[0].champion_version,
        "name": scored.model_name,
        "version": scored.model_version,
        "source": [post.source for post in posts],
        "id": [post.id for post in posts],
        "champion_label": [post.champion_label for post in posts],
        "champion_score": [post.champion_score for post in posts],
        "label": labels_of(scored.probabilities),
        "p_negative": negative,
        "p_neutral": neutral,
        "p_positive": positive,
    }


def open_shadow(
    champion: InferenceSettings,
    challenger: ChallengerSettings,
    postgres: PostgresSettings,
    share: float,
) -> Shadow | None:
    """The shadow that the settings ask for; None when they name no challenger or no share."""
    if challenger.url is None or share == 0:
        return None
    beside = champion.model_copy(update={"timeout_seconds": _REQUEST_SECONDS})
    return Shadow(
        InferenceClient(beside),
        InferenceClient(beside.model_copy(update={"url": challenger.url})),
        ShadowStore(postgres),
        share,
    )
