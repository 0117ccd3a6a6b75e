"""The promoter's client of the examiner, which loads and tries a version's files where the models
are served from: a hostile or broken file meets no credentials, and may end nothing but the
examiner.
"""

from collections import Counter
from typing import Final

import orjson
import urllib3
from pydantic import TypeAdapter, ValidationError

from services.core.errors import TemporaryError
from services.core.gate import Check, Examination

_PROBE_SECONDS: Final = 5.0
_EXAMINATION_SECONDS: Final = 120.0
"""Ten times what a large model takes on one slow core."""
_TRIES: Final = 3
_REASON_CHARS: Final = 300
_EXAMINATION: Final = TypeAdapter(Examination)


class Examiner:
    """One examiner. Not thread-safe."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._http = urllib3.PoolManager(retries=False)
        self._broken_off: Counter[str] = Counter()
        """How many examinations of a version in a row had no end."""

    def examine(self, version: str) -> Examination:
        """What the examiner finds about the files in the folder of that name.

        Raises TemporaryError while it is away or says no. Where it is there, yet was lost three
        times in a row over the same version, the files are to blame: that is an Examination with a
        failed check.
        """
        self._probe()
        try:
            answer = self._http.request(
                "POST",
                f"{self._url}/examine",
                body=orjson.dumps({"folder": version}),
                headers={"Content-Type": "application/json"},
                timeout=_EXAMINATION_SECONDS,
            )
        except urllib3.exceptions.HTTPError as exc:
            self._broken_off[version] += 1
            count = self._broken_off[version]
            if count < _TRIES:
                raise TemporaryError(
                    f"the examiner broke off the examination of version {version}, "
                    f"{count} of {_TRIES} times: {exc}"
                ) from exc
            del self._broken_off[version]
            return Examination(
                checks=(Check("artifact", False, "the examiner does not survive loading it"),),
                macro_recall=None,
                example=None,
            )
        del self._broken_off[version]
        if answer.status != 200:
            reason = answer.data[:_REASON_CHARS].decode(errors="replace").strip()
            raise TemporaryError(f"the examiner answered {answer.status}: {reason}")
        try:
            return _EXAMINATION.validate_json(answer.data)
        except ValidationError as exc:
            raise TemporaryError(f"the examiner's answer is no examination: {exc}") from exc

    def _probe(self) -> None:
        """Tells an examiner that is away from one that is lost over a version."""
        try:
            status = self._http.request("GET", f"{self._url}/livez", timeout=_PROBE_SECONDS).status
        except urllib3.exceptions.HTTPError as exc:
            raise TemporaryError(f"the examiner at {self._url} does not answer: {exc}") from exc
        if status != 200:
            raise TemporaryError(f"the examiner at {self._url} is not well: {status} from /livez")
