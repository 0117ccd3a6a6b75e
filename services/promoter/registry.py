"""The promoter's one module that knows MLflow: which version an alias names, what was said about
which version, its files, and the webhook. Needs no more than mlflow-skinny.
"""

import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

# Read when mlflow is imported or at each request. The library would try for minutes; we look again
# at the next round.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Through the server: it offers addresses in its object store, which is not ours to reach.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from services.core.contract import (
    ROLLOUT_AT_TAG,
    ROLLOUT_REASON_TAG,
    ROLLOUT_ROLE_TAG,
    ROLLOUT_TAG,
    RolloutState,
)
from services.core.errors import MoodstreamError, TemporaryError

ALIAS_EVENTS: Final = ("model_version_alias.created", "model_version_alias.deleted")
"""What the webhook is told of; an alias that is moved is created on the other version."""

_ABSENT: Final = "RESOURCE_DOES_NOT_EXIST"
_PROXIED: Final = "mlflow-artifacts"
_MAX_BYTES: Final = 500 * 1024 * 1024
"""Largest version that is downloaded."""
_MAX_FILES: Final = 1_000
_FOLDER: Final = re.compile(r"\d+|\.\d+\.partial")
_MARK: Final = "**moodstream:** "
_PARAGRAPH: Final = re.compile(rf"(?:\A|\n\n){re.escape(_MARK)}[^\n]*")
_MARKDOWN: Final = re.compile(r"([\\`*_\[\]<>])")
_DESCRIPTION_CHARS: Final = 5_000
"""MLflow's database takes no longer one."""
_REASON_CHARS: Final = 1_000


class RefusedFilesError(MoodstreamError):
    """A version's files are not such that they may be downloaded."""


@dataclass(frozen=True)
class Registered:
    """A version of the registered model, and what was last said about it in the role asked for."""

    version: str
    download_uri: str
    """Folder with its files, as MLflow's clients read it."""
    state: RolloutState | None
    """None: nothing was said, or it was about the other role."""
    at: datetime | None
    """Since when, UTC."""
    reason: str = ""
    """Why, in a sentence."""


@dataclass(frozen=True)
class Observed:
    """The registry's side of one role."""

    wanted: Registered | None
    """The version that the alias names."""
    serving: Registered | None
    """The version that was last said to serve in this role, if it is still there."""
    rolling: tuple[Registered, ...]
    """The versions that are said to be rolling out in this role."""
    outdated: tuple[Registered, ...]
    """Versions that are said to serve in this role though a later one does."""


class Registry:
    """One registered model of one MLflow server. Every call raises TemporaryError while the server
    is away.
    """

    def __init__(self, url: str, model_name: str) -> None:
        self._url = url
        self._model_name = model_name
        self._client = MlflowClient(tracking_uri=url, registry_uri=url)
        self._downloaded: dict[str, str] = {}
        """Where this process has each folder's files from; a model that was deleted and made anew
        counts from version 1 again.
        """
        self._uris: dict[tuple[str, int], str] = {}
        """Of each version and time of its creation: they never change, and are asked for at each
        round.
        """

    def observe(self, alias: str) -> Observed:
        """One role as it is now."""
        with self._errors():
            said_serving = self._said(alias, RolloutState.SERVING)
            return Observed(
                wanted=self._named(alias),
                serving=said_serving[-1] if said_serving else None,
                rolling=self._said(alias, RolloutState.ROLLING_OUT),
                outdated=said_serving[:-1],
            )

    def tell(self, version: str, role: str, state: RolloutState, reason: str, at: datetime) -> None:
        """Says on the version's page what became of it: in four tags and in the description's last
        paragraph. Writes nothing when it is so already, or when the version is gone.
        """
        # The state comes last, and goes first when the role changes, so that whoever stops in
        # between has never said that a version is in a state in a role in which it is not.
        tags = {
            ROLLOUT_ROLE_TAG: role,
            ROLLOUT_REASON_TAG: _line(reason),
            ROLLOUT_AT_TAG: at.astimezone(UTC).isoformat(),
            ROLLOUT_TAG: state.value,
        }
        where = (self._model_name, version)
        with self._errors():
            found = self._version(version)
            if found is None:
                return
            said: dict[str, str] = found.tags
            try:
                if said.get(ROLLOUT_ROLE_TAG, role) != role and ROLLOUT_TAG in said:
                    self._client.delete_model_version_tag(*where, ROLLOUT_TAG)
                    said = {key: said[key] for key in said if key != ROLLOUT_TAG}
                for tag, value in tags.items():
                    if said.get(tag) != value:
                        self._client.set_model_version_tag(*where, tag, value)
                before = found.description or ""
                after = described(before, paragraph(role, state, reason, at))
                if after != before:
                    self._client.update_model_version(*where, after)
            except MlflowException as exc:
                if exc.error_code != _ABSENT:
                    raise

    def download(self, version: str, models_dir: Path, keep: Collection[str] = ()) -> Path:
        """The version's files as models_dir/<version>, which appears whole or not at all. Other
        folders go, but for those of the versions in `keep`.

        Raises RefusedFilesError for files that this MLflow server does not hold or that are too
        many or too large, TemporaryError when its storage is away or the version was deleted.
        """
        models_dir.mkdir(parents=True, exist_ok=True)
        for other in models_dir.iterdir():
            if _FOLDER.fullmatch(other.name) and other.name not in {version, *keep}:
                shutil.rmtree(other)
        with self._errors():
            uri = own(self._client.get_model_version_download_uri(self._model_name, version))
        folder = models_dir / version
        if self._downloaded.get(version) == uri and folder.is_dir():
            return folder
        # The examiner may be another user, who could not read what mkdtemp makes.
        partial = models_dir / f".{version}.partial"
        partial.mkdir()
        with self._errors():
            files = get_artifact_repository(uri, tracking_uri=self._url)
            _check(files)
            files.download_artifacts("", str(partial))  # type: ignore[no-untyped-call]  # not typed
        if folder.is_dir():
            shutil.rmtree(folder)
        partial.rename(folder)
        self._downloaded[version] = uri
        return folder

    def register_webhook(self, url: str, secret: str) -> None:
        """Has MLflow call `url`, signed with `secret`, when an alias is set or removed. Under one
        name, so the second time changes the first one's address and secret.

        MLflow calls neither private addresses nor plain HTTP unless it is set to; that refusal is a
        TemporaryError as well.
        """
        name = f"moodstream-{self._model_name}"
        with self._errors():
            for webhook in self._webhooks():
                if webhook.name == name:
                    self._client.update_webhook(
                        webhook.webhook_id, url=url, events=list(ALIAS_EVENTS), secret=secret
                    )
                    return
            self._client.create_webhook(name, url, list(ALIAS_EVENTS), secret=secret)

    def _webhooks(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.list_webhooks(page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _named(self, alias: str) -> Registered | None:
        try:
            aliases = self._client.get_registered_model(self._model_name).aliases
        except MlflowException as exc:
            if exc.error_code == _ABSENT:
                return None
            raise
        found = self._version(str(aliases[alias])) if alias in aliases else None
        return self._registered(found, alias) if found is not None else None

    def _said(self, role: str, state: RolloutState) -> tuple[Registered, ...]:
        """Those that were last said to be in the state in the role, oldest first."""
        found = self._client.search_model_versions(
            f"name = '{self._model_name}' AND tags.`{ROLLOUT_TAG}` = '{state}' "
            f"AND tags.`{ROLLOUT_ROLE_TAG}` = '{role}'"
        )
        registered = (self._registered(each, role) for each in found)
        return tuple(
            sorted(
                (each for each in registered if each is not None),
                key=lambda each: (each.at or _LONG_AGO, int(each.version)),
            )
        )

    def _version(self, version: str) -> Any:
        try:
            return self._client.get_model_version(self._model_name, version)
        except MlflowException as exc:
            if exc.error_code == _ABSENT:
                return None
            raise

    def _registered(self, found: Any, role: str) -> Registered | None:
        """None for a version that was deleted since it was found."""
        key = str(found.version), int(found.creation_timestamp)
        if key not in self._uris:
            try:
                uri = self._client.get_model_version_download_uri(self._model_name, key[0])
            except MlflowException as exc:
                if exc.error_code == _ABSENT:
                    return None
                raise
            self._uris[key] = str(uri)
        said: dict[str, str] = found.tags if found.tags.get(ROLLOUT_ROLE_TAG) == role else {}
        states = {state.value: state for state in RolloutState}
        return Registered(
            version=key[0],
            download_uri=self._uris[key],
            state=states.get(said.get(ROLLOUT_TAG, "")),
            at=_time(said.get(ROLLOUT_AT_TAG, "")),
            reason=said.get(ROLLOUT_REASON_TAG, ""),
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (MlflowException, requests.RequestException) as exc:
            raise TemporaryError(f"MLflow at {self._url}: {exc}") from exc


_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


def paragraph(role: str, state: RolloutState, reason: str, at: datetime) -> str:
    """What is said about a version, as a paragraph of Markdown."""
    said = _MARKDOWN.sub(r"\\\1", _line(reason))
    return f"{_MARK}{state} as {role}, {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC: {said}"


def described(description: str, said: str) -> str:
    """The description with the paragraph `said` at its end, in place of the one before. What people
    wrote stays; where they left no room, the paragraph is cut.
    """
    theirs = _PARAGRAPH.sub("", description).strip("\n")
    start = f"{theirs}\n\n" if theirs else ""
    room = _DESCRIPTION_CHARS - len(start)
    if room <= len(_MARK):
        return theirs
    return start + (said if len(said) <= room else f"{said[: room - 1]}…")


def own(download_uri: str) -> str:
    """The address at our MLflow server, whatever host it names. Raises RefusedFilesError for files
    that the server does not hold.
    """
    parts = urlsplit(download_uri)
    if parts.scheme != _PROXIED or ".." in unquote(parts.path).split("/"):
        raise RefusedFilesError(
            f"the version's files are at {download_uri}; "
            "register a model that was logged to this MLflow server"
        )
    return f"{_PROXIED}:/{parts.path.lstrip('/')}"


def _line(reason: str) -> str:
    """On one line, of bounded length."""
    words = " ".join(reason.replace("\0", " ").split())
    return words if len(words) <= _REASON_CHARS else f"{words[: _REASON_CHARS - 1]}…"


def _time(written: str) -> datetime | None:
    """None for what is no time with a zone: anybody may write a tag."""
    try:
        found = datetime.fromisoformat(written)
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else None


def _check(files: Any) -> None:
    """Counts before anything is downloaded: the disk is shared with the versions that serve."""
    count, size = 0, 0
    folders: list[str | None] = [None]
    while folders:
        for each in files.list_artifacts(folders.pop()):
            count += 1
            if each.is_dir:
                folders.append(each.path)
            size += each.file_size or 0
            if size > _MAX_BYTES:
                raise RefusedFilesError(
                    f"the version's files are larger than {_MAX_BYTES // 1024**2} MiB"
                )
            if count > _MAX_FILES:
                raise RefusedFilesError(f"the version has more than {_MAX_FILES} files")
    if count == 0:
        raise RefusedFilesError("the version has no files; log and register the model again")
