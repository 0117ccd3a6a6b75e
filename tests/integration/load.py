"""A steady load on a predictor, by clients that keep their connection and by clients that open one
for each request; counts what went wrong, and which version answered when.
"""

import json
import time
from collections import Counter
from threading import Event, Lock, Thread
from types import TracebackType

import urllib3

KEPT, NEW = 4, 2
"""Clients of each kind."""
RATE = 50.0
"""Requests a second, of all clients together."""
_ANSWER_SECONDS = 30.0
_BODY = json.dumps(
    {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["love it", "awful"]}]}
).encode()


class Load:
    """Asks for as long as it is entered."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v2/models/sentiment/infer"
        self._stop, self._lock = Event(), Lock()
        self.failures: list[str] = []
        """Answers other than 200, and errors of connections."""
        self.versions: Counter[str] = Counter()
        """Version to the number of its answers."""
        self.first: dict[str, float] = {}
        """Version to the monotonic time of its first answer."""
        self.last: dict[str, float] = {}
        """And of its last."""
        kinds = [True] * KEPT + [False] * NEW
        self._threads = [Thread(target=self._ask, args=(kept,)) for kept in kinds]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, kept: bool) -> None:
        pool = urllib3.PoolManager(maxsize=1, retries=False, timeout=_ANSWER_SECONDS)
        headers = {} if kept else {"Connection": "close"}
        while not self._stop.wait(len(self._threads) / RATE):
            try:
                answer = pool.request("POST", self._url, body=_BODY, headers=headers)
            except urllib3.exceptions.HTTPError as exc:
                self._failed(f"{'kept' if kept else 'new'}: {exc!r}")
                continue
            if answer.status == 200:
                self._answered(answer.json()["model_version"])
            else:
                self._failed(f"{answer.status}: {answer.data[:200]!r}")

    def _answered(self, version: str) -> None:
        now = time.monotonic()
        with self._lock:
            self.versions[version] += 1
            self.first.setdefault(version, now)
            self.last[version] = now

    def _failed(self, what: str) -> None:
        with self._lock:
            self.failures.append(what)
