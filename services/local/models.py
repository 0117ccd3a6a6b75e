"""The versions of the registered model and what became of them, for the command line: lists them,
moves the aliases, and follows what the promoter then says.

Speaks MLflow's REST API, because its client takes seconds to import. Works with any MLflow server.
"""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from services.core.contract import (
    CHALLENGER,
    CHAMPION,
    MODEL_NAME,
    ROLLOUT_AT_TAG,
    ROLLOUT_REASON_TAG,
    ROLLOUT_ROLE_TAG,
    ROLLOUT_TAG,
    RolloutState,
)
from services.core.errors import MoodstreamError, TemporaryError

_API: Final = "api/2.0/mlflow"
_ANSWER_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.5
_SILENCE_SECONDS: Final = 90.0
"""How long the promoter may say nothing: far above its poll and its longest examination."""
_ROLLOUT_SECONDS: Final = 900.0
"""Above every deadline of the promoter's."""
_MACRO_RECALL_TAG: Final = "macro_recall"
"""Set by training."""
_ABSENT: Final = 404
_ROLLING: Final = RolloutState.ROLLING_OUT


class ModelsError(MoodstreamError):
    """What was asked for cannot be; the message says what can."""


@dataclass(frozen=True)
class Version:
    """A version of the registered model."""

    version: str
    aliases: tuple[str, ...] = ()
    state: str | None = None
    """A RolloutState; None: the promoter has said nothing."""
    role: str | None = None
    """The alias that the state is about."""
    reason: str | None = None
    at: str | None = None
    """Since when, ISO 8601, UTC."""
    macro_recall: float | None = None
    """As training measured it."""

    @property
    def said(self) -> tuple[str | None, str | None]:
        """What tells one word of the promoter's from the next. Not its time and its reason: the
        promoter writes the state last, so they may be newer than it.
        """
        return self.state, self.role


class Models:
    """One MLflow server. Every call raises TemporaryError while it does not answer."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def versions(self) -> list[Version]:
        """All of them, newest first; none when nothing is registered yet."""
        model = self._get("registered-models/get", name=MODEL_NAME)
        if model is None:
            return []
        aliases = model["registered_model"].get("aliases", ())
        found: list[Version] = []
        token: str | None = None
        while token != "":
            page = self._get(
                "model-versions/search",
                filter=f"name = '{MODEL_NAME}'",
                **({"page_token": token} if token else {}),
            )
            entries = (page or {}).get("model_versions", ())
            found.extend(_version(entry, aliases) for entry in entries)
            token = (page or {}).get("next_page_token", "")
        return sorted(found, key=lambda each: int(each.version), reverse=True)

    def set_alias(self, alias: str, version: str) -> None:
        """Points the alias at the version, as MLflow's page does."""
        self._call("POST", "registered-models/alias", name=MODEL_NAME, alias=alias, version=version)

    def remove_alias(self, alias: str) -> None:
        """Takes the alias away."""
        self._call("DELETE", "registered-models/alias", name=MODEL_NAME, alias=alias)

    def forget(self, version: str) -> None:
        """Removes what was said about the version, so that the promoter tries it again."""
        self._call(
            "DELETE", "model-versions/delete-tag", name=MODEL_NAME, version=version, key=ROLLOUT_TAG
        )

    def _get(self, path: str, **query: str) -> dict[str, Any] | None:
        return self._answer(f"{path}?{urllib.parse.urlencode(query)}", "GET", None)

    def _call(self, method: str, path: str, **body: str) -> None:
        self._answer(path, method, json.dumps(body).encode())

    def _answer(self, path: str, method: str, body: bytes | None) -> dict[str, Any] | None:
        """None for what is not there."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(  # noqa: S310 - the address is a setting, not input
            f"{self._url}/{_API}/{path}", body, headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310
                content: dict[str, Any] = json.load(answer)
                return content
        except urllib.error.HTTPError as exc:
            with exc:
                if exc.code == _ABSENT:
                    return None
                said = exc.read().decode(errors="replace")
            raise TemporaryError(f"MLflow at {self._url} answered {exc.code}: {said}") from exc
        except (OSError, ValueError) as exc:
            raise TemporaryError(
                f"MLflow at {self._url} does not answer: {exc}; start it, or set "
                "MOODSTREAM_MLFLOW_URL"
            ) from exc


@dataclass(frozen=True)
class Outcome:
    """What became of a version under an alias."""

    version: str
    alias: str
    state: str | None
    """A RolloutState; None: not waited for."""
    reason: str | None

    @property
    def good(self) -> bool:
        """Whether it is what was asked for."""
        return self.state in (None, RolloutState.SERVING)


Said = Callable[[str], None]
"""Takes one line for people."""


def promote(models: Models, selector: str, alias: str, *, wait: bool, say: Said) -> Outcome:
    """Sets the alias on the version that a number or an alias names. One that was refused or rolled
    back is tried again.
    """
    found = _find(models.versions(), selector)
    version = found.version
    if alias == CHALLENGER and CHAMPION in found.aliases:
        raise ModelsError(f"version {version} is the champion, so it cannot be its own challenger")
    if found.state in (RolloutState.REFUSED, RolloutState.ROLLED_BACK):
        models.forget(version)
        found = replace(found, state=None)
    models.set_alias(alias, version)
    if not wait:
        return Outcome(version, alias, None, None)
    return _follow(models, found, lambda seen: outcome(seen, found, alias), say)


def rollback(models: Models, *, wait: bool, say: Said) -> Outcome:
    """Makes the version that served before the champion again."""
    return promote(models, previous(models.versions()).version, CHAMPION, wait=wait, say=say)


def withdraw(models: Models, *, wait: bool, say: Said) -> Outcome:
    """Takes the alias challenger away, which stops the challenger."""
    versions = models.versions()
    found = next((each for each in versions if CHALLENGER in each.aliases), None)
    if found is None:
        raise ModelsError("no version is the challenger")
    models.remove_alias(CHALLENGER)
    if not wait or not _runs(found, CHALLENGER):
        return Outcome(found.version, CHALLENGER, None, None)
    return _follow(models, found, lambda seen: gone(seen, found), say)


def previous(versions: Sequence[Version]) -> Version:
    """The version to go back to: the one that still serves in spite of the alias, else the one that
    was replaced last. Raises ModelsError when there is none.
    """
    others = [each for each in versions if each.role == CHAMPION and CHAMPION not in each.aliases]
    for state in (RolloutState.SERVING, RolloutState.REPLACED):
        candidates = [each for each in others if each.state == state]
        if candidates:
            return max(candidates, key=lambda each: each.at or "")
    raise ModelsError("no version has served before the champion; promote one by its number")


def outcome(versions: Sequence[Version], before: Version, alias: str) -> Outcome | None:
    """What became of a version since it was `before`; None while that is open."""
    now = _find(versions, before.version)
    rolling = any((each.state, each.role) == (_ROLLING, alias) for each in versions)
    if now.role == alias and now.state is not None:
        done = now.state != _ROLLING and now.said != before.said
        serves = now.state == RolloutState.SERVING and not rolling
        if done or serves:
            return Outcome(now.version, alias, now.state, now.reason)
    if alias not in now.aliases:
        raise ModelsError(f"the alias {alias} was taken from version {now.version} meanwhile")
    return None


def gone(versions: Sequence[Version], before: Version) -> Outcome | None:
    """That a version no longer serves as challenger; None while it does."""
    now = _find(versions, before.version)
    return None if _runs(now, CHALLENGER) else Outcome(now.version, CHALLENGER, None, now.reason)


def _runs(version: Version, role: str) -> bool:
    return version.role == role and version.state in (RolloutState.SERVING, _ROLLING)


def _follow(
    models: Models,
    before: Version,
    result: Callable[[Sequence[Version]], Outcome | None],
    say: Said,
) -> Outcome:
    started, last = time.monotonic(), before.said
    while True:
        versions = models.versions()
        now = _find(versions, before.version)
        found = result(versions)
        if found is not None:
            return found
        if now.said != last and now.state is not None:
            say(f"{now.state}: {now.reason}")
            last = now.said
        waited = time.monotonic() - started
        if waited > _SILENCE_SECONDS and now.said == before.said and now.state != _ROLLING:
            raise ModelsError(
                f"the promoter has said nothing about version {now.version} for {waited:.0f} s; "
                "see whether it runs (moodstream status, or moodstream cluster status)"
            )
        if waited > _ROLLOUT_SECONDS:
            raise ModelsError(f"version {now.version} is still {now.state} after {waited:.0f} s")
        time.sleep(_POLL_SECONDS)


def _find(versions: Iterable[Version], selector: str) -> Version:
    numbers = []
    for each in versions:
        if selector == each.version or selector in each.aliases:
            return each
        numbers.append(each.version)
    there = f"there are {', '.join(numbers)}" if numbers else "train one first"
    raise ModelsError(f"the registry has no {selector!r} of {MODEL_NAME!r}; {there}")


def _version(entry: Mapping[str, Any], aliases: Iterable[Mapping[str, Any]]) -> Version:
    number = str(entry["version"])
    tags = {tag["key"]: tag["value"] for tag in entry.get("tags", ())}
    return Version(
        number,
        tuple(sorted(each["alias"] for each in aliases if str(each["version"]) == number)),
        tags.get(ROLLOUT_TAG),
        tags.get(ROLLOUT_ROLE_TAG),
        tags.get(ROLLOUT_REASON_TAG),
        tags.get(ROLLOUT_AT_TAG),
        _number(tags.get(_MACRO_RECALL_TAG)),
    )


def _number(written: str | None) -> float | None:
    try:
        return float(written) if written else None
    except ValueError:
        return None
