"""The one client of the served model: texts in, probabilities out, over the Open Inference Protocol
(V2 REST).

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md

Answers are sorted by whose fault they are, because only a bad text may become a dead letter.
"""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Timer
from typing import Any, Final

import numpy as np
import orjson
import urllib3
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from services.core.contract import INPUT_NAME, LABELS, PROBABILITIES_OUTPUT, Probabilities
from services.core.errors import MoodstreamError, TemporaryError
from services.core.settings import InferenceSettings

_REJECTED_STATUSES: Final = frozenset({400, 413, 422})
_SUM_TOLERANCE: Final = 0.01
"""How far a row of probabilities may sum from 1; rounding in a JSON answer stays far below it."""
_CONNECTIONS: Final = 4
_CHUNK_BYTES: Final = 65_536
_NO_DEADLINE: Final = 3_600.0
_MOST_BYTES: Final = 64 * 1024 * 1024
"""No answer to the most texts of a request is near it."""


@contextmanager
def _head_in_time(connection: HTTPConnection) -> Iterator[None]:
    """Cuts a connection whose answer's head does not come within its timeout as a whole; the
    library counts it anew with each byte.
    """
    connected = connection.sock

    def cut() -> None:
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = Timer(connection.timeout or _NO_DEADLINE, cut)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Connection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in the library
        with _head_in_time(self):
            return super().getresponse()


class _TLSConnection(HTTPSConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in the library
        with _head_in_time(self):
            return super().getresponse()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class RejectedTextsError(MoodstreamError):
    """The server says that the request is at fault: at least one of these texts can never be
    scored.
    """


class FailedTextsError(MoodstreamError):
    """The server answered 500: one text may have broken it, or the server is broken."""


@dataclass(frozen=True)
class Scored:
    """The answer for n texts."""

    probabilities: Probabilities
    """Shape [n, 3], in the order of LABELS."""
    model_name: str
    model_version: str


class InferenceClient:
    """Scores batches of texts. Thread-safe; keeps connections open."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._model = settings.model_name
        self._base = f"{settings.url.rstrip('/')}/v2/models/{settings.model_name}"
        self._seconds = settings.timeout_seconds
        self._pool = urllib3.PoolManager(
            maxsize=_CONNECTIONS, retries=False, timeout=urllib3.Timeout(total=self._seconds)
        )
        self._pool.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def score(self, texts: Sequence[str]) -> Scored:
        """Probabilities of each text, in order.

        Raises RejectedTextsError (400, 413, 422), FailedTextsError (500), or TemporaryError for a
        server that is away, busy, slow, or answers something that is no answer.
        """
        body = {
            "inputs": [
                {"name": INPUT_NAME, "shape": [len(texts)], "datatype": "BYTES", "data": texts}
            ],
            "outputs": [{"name": PROBABILITIES_OUTPUT}],
        }
        status, content = self._request("POST", f"{self._base}/infer", orjson.dumps(body))
        if status == 200:
            return _parse(content, len(texts))
        reason = content[:300].decode(errors="replace")
        if status in _REJECTED_STATUSES:
            raise RejectedTextsError(f"{status}: {reason}")
        if status == 500:
            raise FailedTextsError(reason)
        raise TemporaryError(f"the predictor answered {status}: {reason}")

    def ready(self) -> bool:
        """Whether the server has the model loaded."""
        try:
            return self._request("GET", f"{self._base}/ready", None)[0] == 200
        except TemporaryError:
            return False

    def version(self) -> str:
        """The version that the server says it serves, by its metadata. Raises TemporaryError for a
        server that is away or does not say.
        """
        status, content = self._request("GET", self._base, None)
        if status != 200:
            raise TemporaryError(f"the predictor answered {status} when asked for its model")
        try:
            (version,) = orjson.loads(content)["versions"]
        except (ValueError, KeyError, TypeError) as exc:
            raise TemporaryError(f"the predictor does not say its version: {exc!r}") from exc
        return str(version)

    def _request(self, method: str, url: str, body: bytes | None) -> tuple[int, bytes]:
        deadline = time.monotonic() + self._seconds
        content = bytearray()
        try:
            response = self._pool.request(
                method,
                url,
                body=body,
                headers={"Content-Type": "application/json"},
                preload_content=False,
            )
            # The library's deadline is for each read; an answer that trickles would never end.
            while chunk := response.read1(_CHUNK_BYTES):
                content += chunk
                if time.monotonic() > deadline or len(content) > _MOST_BYTES:
                    response.close()
                    raise TemporaryError(
                        f"the predictor at {url} does not end its answer: {len(content)} bytes so "
                        f"far, {self._seconds} s are its deadline"
                    )
        except urllib3.exceptions.HTTPError as exc:
            raise TemporaryError(f"the predictor at {url} does not answer: {exc}") from exc
        response.release_conn()
        return response.status, bytes(content)


def _parse(content: bytes, expected: int) -> Scored:
    """Checks an answer as strictly as a foreign one: a 200 with garbage is a fault of the
    server.
    """
    try:
        answer: dict[str, Any] = orjson.loads(content)
        tensor = next(t for t in answer["outputs"] if t["name"] == PROBABILITIES_OUTPUT)
        probabilities = np.asarray(tensor["data"], dtype=np.float32).reshape(expected, len(LABELS))
        model_name, model_version = str(answer["model_name"]), str(answer["model_version"])
    except (ValueError, KeyError, TypeError, StopIteration) as exc:
        raise TemporaryError(f"the predictor's answer is not a V2 answer: {exc!r}") from exc
    if not (
        np.isfinite(probabilities).all()
        and (probabilities >= 0).all()
        and (np.abs(probabilities.sum(axis=1) - 1) < _SUM_TOLERANCE).all()
    ):
        raise TemporaryError("the predictor's answer holds numbers that are no probabilities")
    return Scored(probabilities, model_name, model_version)
