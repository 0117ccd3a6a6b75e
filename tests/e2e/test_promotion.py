"""A person sets an alias in MLflow, as its page does it; the platform does the rest."""

import json
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.e2e.deployed import SOURCE, WAY_OUT, Batch, CommandError, Platform, client_of
from tests.missing import missing

_MODEL = "sentiment"
_VERSION = "moodstream.io/model-version"
_CHALLENGER = "sentiment-challenger"
_CHALLENGER_ADDRESS = "predictor-challenger:80"
_PROMOTER = "app.kubernetes.io/component=promoter,app.kubernetes.io/part-of=moodstream"
_CHALLENGER_PODS = f"serving.kserve.io/inferenceservice={_CHALLENGER}"

_RATE = 50
_POSTS = 5_000
"""At that rate they last longer than a rollout."""
_TRAINING_SECONDS = 600
_ROLLOUT_SECONDS = 240
_REFUSAL_SECONDS = 120
_ARRIVAL_SECONDS = 120
_SHADOW_SECONDS = 60
_ASKING_SECONDS = "270"
_PATIENCE_SECONDS = "5"


@dataclass(frozen=True)
class Registry:
    """MLflow's REST API, under the paths that its own page uses. Raises CommandError."""

    url: str

    def set_alias(self, alias: str, version: str) -> None:
        """What the button on the version's page does."""
        body = {"name": _MODEL, "alias": alias, "version": version}
        self._ask("POST", "registered-models/alias", body)

    def remove_alias(self, alias: str) -> None:
        """Also when no version has it."""
        with suppress(CommandError):
            self._ask("DELETE", "registered-models/alias", {"name": _MODEL, "alias": alias})

    def aliased(self, alias: str) -> str | None:
        """The version with the alias."""
        found = self._ask("GET", f"registered-models/get?{urlencode({'name': _MODEL})}")
        aliases = found["registered_model"].get("aliases", ())
        return next((str(each["version"]) for each in aliases if each["alias"] == alias), None)

    def versions(self) -> list[str]:
        """All versions."""
        query = urlencode({"filter": f"name='{_MODEL}'"})
        found = self._ask("GET", f"model-versions/search?{query}")
        return [str(each["version"]) for each in found["model_versions"]]

    def version(self, version: str) -> dict[str, Any]:
        """One version: its source, its description, and its tags as a mapping."""
        query = urlencode({"name": _MODEL, "version": version})
        found: dict[str, Any] = self._ask("GET", f"model-versions/get?{query}")["model_version"]
        return found | {"tags": {tag["key"]: tag["value"] for tag in found.get("tags", ())}}

    def rollout(self, version: str) -> tuple[str, str]:
        """What the version's page says has become of it, and as what."""
        tags = self.version(version)["tags"]
        return tags.get("moodstream.rollout", ""), tags.get("moodstream.rollout.role", "")

    def try_webhook(self) -> dict[str, Any]:
        """What comes of MLflow's calling the promoter."""
        found = self._ask("GET", "webhooks").get("webhooks", ())
        [webhook] = (each for each in found if each["name"] == f"moodstream-{_MODEL}")
        answer = self._ask("POST", f"webhooks/{webhook['webhook_id']}/test", {})
        result: dict[str, Any] = answer["result"]
        return result

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.url}/ajax-api/2.0/mlflow/{path}",
            json.dumps(body).encode() if body is not None else None,
            {"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                content: dict[str, Any] = json.load(answer)
        except urllib.error.URLError as exc:
            raise CommandError(f"MLflow, {method} {path}: {exc}") from exc
        return content


@pytest.fixture(scope="module")
def registry(platform: Platform) -> Iterator[Registry]:
    """The registry, whose aliases are put back at the end."""
    with platform.forwarded("mlflow", 5000) as url:
        registry = Registry(url)
        champion, challenger = registry.aliased("champion"), registry.aliased("challenger")
        assert champion is not None

        yield registry

        registry.set_alias("champion", champion)
        if challenger is None:
            registry.remove_alias("challenger")
        else:
            registry.set_alias("challenger", challenger)
        _wait_until_served(platform, registry, champion)


@pytest.fixture(scope="module")
def versions(platform: Platform, registry: Registry) -> set[str]:
    """The champion, and a version that a Job of the CronJob has trained."""
    champion, before = registry.aliased("champion"), registry.versions()
    assert champion is not None
    platform.run_job("moodstream-training", _TRAINING_SECONDS)
    [trained] = set(registry.versions()) - set(before)
    return {champion, trained}


@pytest.fixture
def other(platform: Platform, registry: Registry, versions: set[str]) -> Iterator[str]:
    """The one of the two versions that is not served; no version is the challenger. The champion is
    put back.
    """
    registry.remove_alias("challenger")
    champion = registry.aliased("champion")
    assert champion is not None
    [other] = versions - {champion}

    yield other

    registry.set_alias("champion", champion)
    _wait_until_served(platform, registry, champion)


def test_training_leaves_a_challenger_and_never_a_champion(
    registry: Registry, versions: set[str]
) -> None:
    trained = max(versions, key=int)

    assert registry.aliased("champion") != trained
    assert registry.aliased("challenger") == trained
    assert registry.version(trained)["tags"]["gate"] == "passed"


def test_a_version_with_the_alias_is_rolled_out_without_a_failed_request(
    platform: Platform, registry: Registry, other: str
) -> None:
    old = _served(platform)
    counted, began = platform.counts(), _now(platform)
    batches = [_stored(platform, 200)]
    asking = _start_asking(platform, other)
    during = platform.produce(_POSTS, _RATE)
    platform.wait_for_rows(during, _POSTS // 20, _ARRIVAL_SECONDS)

    set_at = time.monotonic()
    registry.set_alias("champion", other)
    _wait_until_served(platform, registry, other)
    seconds = time.monotonic() - set_at

    asked = json.loads(platform.finish(asking, _ROLLOUT_SECONDS))
    batches.append(_stored(platform, 200))
    platform.finish(during.pod, _POSTS / _RATE + 60)
    platform.wait_for_rows(during, during.count, _ARRIVAL_SECONDS)
    sys.stdout.write(f"\nfrom the alias to serving: {seconds:.1f} s; requests: {asked}\n")
    assert asked["failures"] == []
    assert set(asked["answers"]) == {old, other}
    assert _versions(platform, batches[0]) == {old}
    assert _versions(platform, during) == {old, other}
    assert _versions(platform, batches[1]) == {other}
    platform.assert_reconciled(counted, *batches, during)
    told = {(other, "rolling out"), (old, "replaced"), (other, "serving")}
    _assert_told_once(platform, began, "champion", told)
    assert {"ModelPromoted", "ModelServed"} <= _events(platform, _MODEL)
    assert registry.rollout(old) == ("replaced", "champion")
    assert "**moodstream:** serving as champion" in registry.version(other)["description"]


def test_a_model_that_answers_nonsense_is_refused_and_the_old_one_serves_on(
    platform: Platform, registry: Registry
) -> None:
    champion, before = _served(platform), platform.get("inferenceservice", _MODEL)
    pod = platform.start(
        "cronjob/moodstream-training", "register_nonsense.py", labels=WAY_OUT | client_of("mlflow")
    )
    nonsense = platform.finish(pod, _TRAINING_SECONDS).split()[-1]

    registry.set_alias("champion", nonsense)
    try:
        platform.wait(
            lambda: registry.rollout(nonsense) == ("refused", "champion"),
            _REFUSAL_SECONDS,
            f"the refusal of version {nonsense}",
        )
        refused = registry.version(nonsense)
        batch = _stored(platform, 100)
        after = platform.get("inferenceservice", _MODEL)
    finally:
        registry.set_alias("champion", champion)

    assert refused["tags"]["moodstream.rollout.reason"].startswith("quality: macro recall")
    assert "**moodstream:** refused as champion" in refused["description"]
    assert after["spec"] == before["spec"]
    assert _versions(platform, batch) == {champion}
    assert "ModelRefused" in _events(platform, _MODEL)


def test_a_challenger_scores_beside_the_champion_until_its_alias_goes(
    platform: Platform, registry: Registry, other: str
) -> None:
    champion = _served(platform)
    began = _now(platform)

    registry.set_alias("challenger", other)
    platform.wait(
        lambda: registry.rollout(other) == ("serving", "challenger"),
        _ROLLOUT_SECONDS,
        f"version {other} beside the champion",
    )
    reachable = {
        name: _reaches_challenger(platform, labels)
        for name, labels in {
            "client": client_of("challenger"),
            "client of the champion": client_of("predictor"),
            "stranger": {},
        }.items()
    }
    batch = platform.produce(_RATE * _SHADOW_SECONDS, _RATE)
    platform.wait(
        lambda: bool(_compared(platform, batch)), _SHADOW_SECONDS, "posts that both have scored"
    )
    platform.finish(batch.pod, _SHADOW_SECONDS + 60)
    registry.remove_alias("challenger")
    platform.wait(
        lambda: not platform.find("pods,deployments", _CHALLENGER_PODS),
        _ROLLOUT_SECONDS,
        "the end of the challenger's pods",
    )

    assert reachable == {"client": True, "client of the champion": False, "stranger": False}
    assert registry.rollout(other) == ("replaced", "challenger")
    assert _compared(platform, batch) == {(champion, other)}
    assert _versions(platform, batch) == {champion}
    told = {(other, "rolling out"), (other, "serving"), (other, "replaced")}
    _assert_told_once(platform, began, "challenger", told)


def test_what_somebody_changes_by_hand_is_put_right_and_said(
    platform: Platform, registry: Registry
) -> None:
    asked = platform.get("inferenceservice", _MODEL)["spec"]["predictor"]["model"]["storageUri"]
    elsewhere = f"{asked.rpartition('/')[0]}/by-hand"
    by_hand = {"spec": {"predictor": {"model": {"storageUri": elsewhere}}}}
    champion = _served(platform)

    platform.kubectl(
        "patch", "inferenceservice", _MODEL, "--type=merge", f"--patch={json.dumps(by_hand)}"
    )
    platform.wait(
        lambda: (
            platform.get("inferenceservice", _MODEL)["spec"]["predictor"]["model"]["storageUri"]
            == asked
        ),
        _REFUSAL_SECONDS,
        "the address as it was",
    )

    platform.kubectl(
        "rollout", "status", f"deployment/{_MODEL}-predictor", f"--timeout={_ROLLOUT_SECONDS}s",
        seconds=_ROLLOUT_SECONDS + 10,
    )  # fmt: skip
    assert _served(platform) == champion == registry.aliased("champion")
    assert "EditedByHand" in _events(platform, _MODEL)


def test_a_promoter_that_is_killed_in_a_rollout_leaves_it_to_the_next_one(
    platform: Platform, registry: Registry, other: str
) -> None:
    old, began = _served(platform), _now(platform)

    registry.set_alias("champion", other)
    platform.wait(
        lambda: _served(platform) == other, _REFUSAL_SECONDS, "the beginning of the rollout"
    )
    killed = platform.pod(_PROMOTER)["metadata"]["name"]
    platform.kubectl("delete", "pod", killed, "--grace-period=0", "--force", seconds=120)
    _wait_until_served(platform, registry, other)

    platform.wait(
        lambda: platform.pod(_PROMOTER)["metadata"]["name"] != killed,
        _REFUSAL_SECONDS,
        "another promoter",
    )
    told = {(other, "rolling out"), (old, "replaced"), (other, "serving")}
    _assert_told_once(platform, began, "champion", told)


def test_mlflow_reaches_the_promoter_to_tell_it_of_an_alias(
    platform: Platform, registry: Registry
) -> None:
    [promoter, _] = platform.pod(_PROMOTER)["spec"]["containers"]
    if "MOODSTREAM_PROMOTER_WEBHOOK_URL" not in {each["name"] for each in promoter["env"]}:
        missing("promoter.webhookSecret is empty: there is no webhook here")

    result = registry.try_webhook()

    assert result.get("success"), result


def _wait_until_served(platform: Platform, registry: Registry, version: str) -> None:
    """Until the version's page says so, and the InferenceService has it."""
    platform.wait(
        lambda: (
            registry.rollout(version) == ("serving", "champion") and _served(platform) == version
        ),
        _ROLLOUT_SECONDS,
        f"version {version} is served",
    )


def _served(platform: Platform) -> str:
    """The version that the InferenceService is asked to serve."""
    service = platform.get("inferenceservice", _MODEL)
    return str(service["metadata"]["annotations"][_VERSION])


def _stored(platform: Platform, count: int) -> Batch:
    """A batch that has gone all the way."""
    batch = platform.produce(count)
    platform.finish(batch.pod, 120)
    platform.wait_for_rows(batch, count, _ARRIVAL_SECONDS)
    return batch


def _start_asking(platform: Platform, wanted: str) -> str:
    """Starts a pod that asks the model until this version alone answers."""
    return platform.start(
        "moodstream-consumer", "ask_model.py", "http://predictor", wanted, _ASKING_SECONDS,
        labels=WAY_OUT | client_of("predictor"),
    )  # fmt: skip


def _reaches_challenger(platform: Platform, labels: dict[str, str]) -> bool:
    pod = platform.start(
        "moodstream-producer", "connect.py", _PATIENCE_SECONDS, _CHALLENGER_ADDRESS,
        labels=WAY_OUT | labels,
    )  # fmt: skip
    answers: dict[str, bool] = json.loads(platform.finish(pod, 120))
    return answers[_CHALLENGER_ADDRESS]


def _versions(platform: Platform, batch: Batch) -> set[str]:
    """The versions that have scored the batch's posts."""
    rows = platform.sql(
        "SELECT DISTINCT model_version FROM posts"  # noqa: S608
        f" WHERE source = '{SOURCE}' AND starts_with(id, '{batch.prefix}-')"
    )
    return {row["model_version"] for row in rows}


def _compared(platform: Platform, batch: Batch) -> set[tuple[str, str]]:
    """Champion and challenger that have scored the same of the batch's posts."""
    rows = platform.sql(
        "SELECT DISTINCT champion_version, model_version FROM shadow_predictions"  # noqa: S608
        f" WHERE source = '{SOURCE}' AND starts_with(id, '{batch.prefix}-')"
    )
    return {(row["champion_version"], row["model_version"]) for row in rows}


def _now(platform: Platform) -> str:
    [row] = platform.sql("SELECT clock_timestamp() AS now")
    return str(row["now"])


def _assert_told_once(
    platform: Platform, since: str, role: str, states: set[tuple[str, str]]
) -> None:
    """The table is written after MLflow, so it is waited for."""
    platform.wait(
        lambda: set(_told(platform, since, role)) >= states,
        _ARRIVAL_SECONDS,
        f"{sorted(states)} in the table promotions",
    )
    assert _told(platform, since, role) == dict.fromkeys(states, 1)


def _told(platform: Platform, since: str, role: str) -> Counter[tuple[str, str]]:
    """Which versions have come into which states in a role, and how often that was told."""
    rows = platform.sql(
        "SELECT version, state FROM promotions"  # noqa: S608
        f" WHERE alias = '{role}' AND at > '{since}'"
    )
    return Counter((row["version"], row["state"]) for row in rows)


def _events(platform: Platform, service: str) -> set[str]:
    """Why Events were made about an InferenceService."""
    chosen = f"involvedObject.kind=InferenceService,involvedObject.name={service}"
    found = json.loads(
        platform.kubectl("get", "events", f"--field-selector={chosen}", "-o", "json")
    )
    return {event["reason"] for event in found["items"]}
