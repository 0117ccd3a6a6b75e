"""MLflow's webhook: a hint that an alias was set or removed, so that the promoter looks at once.
No more than a hint: MLflow keeps what it has to deliver in memory, and what is done follows from
what the registry says, not from what is in here.

https://mlflow.org/docs/latest/self-hosting/webhooks/
"""

import base64
import hmac
import json
import time
from collections.abc import Callable, Mapping
from threading import Event
from typing import Final

PATH: Final = "/hooks/mlflow"

_ENTITY: Final = "model_version_alias"
_ACTIONS: Final = frozenset({"created", "deleted"})
_SIGNATURE_VERSION: Final = "v1"
_MAX_AGE_SECONDS: Final = 300.0
_TIMESTAMP_DIGITS: Final = 16
"""More than any time of a signature has; int() of very many is slow."""


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether MLflow has signed this delivery with `secret` within five minutes of `now`, in
    seconds since 1970. `headers` by their names in lower case.
    """
    delivery = headers.get("x-mlflow-delivery-id", "")
    written = headers.get("x-mlflow-timestamp", "")
    if not (written.isascii() and written.isdigit() and len(written) <= _TIMESTAMP_DIGITS):
        return False
    if abs(now - int(written)) > _MAX_AGE_SECONDS:
        return False
    signed = f"{delivery}.{written}.".encode() + body
    digest = base64.b64encode(hmac.digest(secret.encode(), signed, "sha256"))
    expected = f"{_SIGNATURE_VERSION},{digest.decode()}".encode()
    return hmac.compare_digest(expected, headers.get("x-mlflow-signature", "").encode())


class Hook:
    """What answers a POST to PATH: sets `wake` for what is signed and about an alias of ours."""

    def __init__(
        self,
        secret: str,
        model_name: str,
        wake: Event,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._secret = secret
        self._model_name = model_name
        self._wake = wake
        self._clock = clock

    def __call__(self, headers: Mapping[str, str], body: bytes) -> int:
        """The HTTP status to answer."""
        if not verify(self._secret, headers, body, self._clock()):
            return 401
        if self._concerns(body):
            self._wake.set()
        return 200

    def _concerns(self, body: bytes) -> bool:
        try:
            said = json.loads(body)
            return (
                said["entity"] == _ENTITY
                and said["action"] in _ACTIONS
                and said["data"]["name"] == self._model_name
            )
        except (KeyError, TypeError, ValueError):
            return False
