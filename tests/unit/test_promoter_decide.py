"""What the promoter decides, from plain data."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.core.contract import VERSION_ANNOTATION, RolloutState
from services.core.gate import Check, Verdict
from services.promoter.decide import (
    STARTED_ANNOTATION,
    STOP_ANNOTATION,
    Examine,
    GiveUp,
    Model,
    Observed,
    OutsideArtifactsError,
    Refuse,
    Rest,
    Rollout,
    Serve,
    Serving,
    Smoke,
    Step,
    Stop,
    Target,
    Wait,
    Wanted,
    decide,
    smoke_problem,
    storage_uri,
    target_of,
)

ROOT = "s3://moodstream/mlflow"
NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
DEADLINE = timedelta(seconds=300)
GOOD = Model("2", f"{ROOT}/1/models/m-2/artifacts")
NEW = Model("3", f"{ROOT}/1/models/m-3/artifacts")
DONE = Rollout("3", observed=True, wanted=2, total=2, updated=2, available=2, stalled=None)
THERE = Target(
    "uid", 5, NEW.version, NEW.storage_uri, NOW, stopped=False, unready=None, failed=None,
    rollout=DONE,
)  # fmt: skip
BEFORE = replace(
    THERE, version=GOOD.version, storage_uri=GOOD.storage_uri, rollout=replace(DONE, version="2")
)
PASSED = Verdict((Check("artifact", True, "fine"),), None)
FAILED = Verdict((Check("quality", False, "macro recall 0.1 is below the floor 0.5"),), None)
STARTED = Observed(
    wanted=Wanted(NEW, RolloutState.ROLLING_OUT),
    good=GOOD,
    champion=GOOD,
    rolling=(NEW,),
    target=THERE,
    verdict=PASSED,
    smoke=None,
    now=NOW,
)
"""The new version has just been set in place of the good one."""
AFTER = replace(
    STARTED, wanted=Wanted(NEW, RolloutState.SERVING), good=NEW, champion=NEW, rolling=()
)
"""It serves."""
ASKED = replace(STARTED, wanted=Wanted(NEW, None), rolling=(), target=BEFORE)
"""The alias was set."""


def step(observed: Observed, *, optional: bool = False) -> Step:
    return decide(observed, DEADLINE, optional=optional)


def test_a_version_is_examined_beside_the_champion_then_served() -> None:
    first = step(replace(ASKED, verdict=None))
    then = step(ASKED)

    assert first == Examine(NEW, GOOD)
    assert then == Serve(NEW, "2", "version 3 has the alias", by_hand=False)


def test_the_champion_is_not_compared_with_itself() -> None:
    assert step(replace(ASKED, champion=NEW, verdict=None)) == Examine(NEW, None)


def test_a_version_that_fails_the_gate_is_refused_once_and_the_old_one_stays() -> None:
    first = replace(ASKED, verdict=FAILED)
    then = replace(first, wanted=Wanted(NEW, RolloutState.REFUSED))

    assert step(first) == Refuse(NEW, FAILED.reason)
    assert step(then) == Rest(f"version 3 is refused: {FAILED.reason}")


def test_a_complete_rollout_is_asked_then_serves() -> None:
    assert step(STARTED) == Smoke(NEW)
    assert step(replace(STARTED, smoke="")) == Serving(NEW)


def test_an_answer_that_is_wrong_is_waited_for_until_the_deadline() -> None:
    wrong = replace(STARTED, smoke="its answer to the logged example is 0.8 off what was logged")
    late = replace(wrong, now=NOW + DEADLINE + timedelta(seconds=1))

    assert step(wrong) == Wait(wrong.smoke or "")
    assert step(late) == GiveUp(NEW, f"not served within 300 s: {wrong.smoke}")


def test_after_a_rollback_the_last_good_version_is_put_back_and_stays() -> None:
    told = replace(STARTED, wanted=Wanted(NEW, RolloutState.ROLLED_BACK), rolling=())
    reason = "version 3 was rolled back; set the alias anew to try it again"

    assert step(told) == Serve(GOOD, "3", reason, by_hand=False)
    assert step(replace(told, target=BEFORE)) == Rest(reason)


def test_with_nothing_to_go_back_to_it_keeps_trying() -> None:
    late = replace(
        STARTED,
        good=None,
        target=replace(THERE, unready="no pod"),
        now=NOW + DEADLINE + timedelta(seconds=1),
    )

    assert step(late) == Wait("no pod; it is past the deadline, and there is nothing to go back to")


def test_a_version_that_served_is_not_rolled_back_for_a_later_outage() -> None:
    later = replace(
        AFTER, target=replace(THERE, unready="no pod"), now=NOW + timedelta(days=1), verdict=None
    )

    assert step(later) == Wait("no pod")


@pytest.mark.parametrize("changed", [{"version": "1"}, {"storage_uri": "s3://elsewhere"}])
def test_what_somebody_sets_by_hand_is_put_right(changed: dict[str, str]) -> None:
    target = replace(THERE, **changed)  # type: ignore[arg-type]

    found = step(replace(AFTER, target=target, verdict=None))

    assert found == Serve(NEW, target.version, "version 3 has the alias", by_hand=True)


def test_without_the_alias_the_last_good_version_stays_or_comes_back() -> None:
    reason = "no version has the alias"
    nobody = replace(STARTED, wanted=None)

    assert step(replace(nobody, target=BEFORE)) == Rest(reason)
    assert step(nobody) == Serve(GOOD, "3", reason, by_hand=False)


def test_an_optional_role_without_the_alias_is_stopped() -> None:
    reason = "no version has the alias"
    nobody = replace(AFTER, wanted=None)

    assert step(nobody, optional=True) == Stop(reason)
    stopped = replace(nobody, target=replace(THERE, stopped=True))
    assert step(stopped, optional=True) == Rest(reason)


def test_an_optional_role_that_is_stopped_is_served_again() -> None:
    stopped = replace(AFTER, target=replace(THERE, stopped=True))

    found = step(stopped, optional=True)

    assert found == Serve(NEW, None, "version 3 has the alias", by_hand=False)


def test_without_an_inference_service_it_waits() -> None:
    assert step(replace(ASKED, target=None)) == Wait("the InferenceService does not exist yet")


@pytest.mark.parametrize(
    ("rollout", "reason"),
    [
        (None, "KServe has not begun the rollout yet"),
        (replace(DONE, version="2"), "KServe has not begun the rollout yet"),
        (replace(DONE, observed=False), "KServe has not begun the rollout yet"),
        (replace(DONE, updated=1, available=1), "1 of 2 pods have been made"),
        (replace(DONE, available=1), "1 of 2 pods are available"),
        (replace(DONE, total=3), "1 pods of the version before are still there"),
        (replace(DONE, available=1, stalled="too late"), "too late"),
    ],
)
def test_a_ready_inference_service_is_not_enough_while_pods_are_replaced(
    rollout: Rollout | None, reason: str
) -> None:
    assert step(replace(STARTED, target=replace(THERE, rollout=rollout))) == Wait(reason)


def test_pods_are_not_enough_while_kserve_does_not_call_it_ready() -> None:
    assert step(replace(STARTED, target=replace(THERE, unready="not yet"))) == Wait("not yet")


def test_a_model_that_cannot_be_loaded_is_the_reason_until_the_rollout_is_complete() -> None:
    loading = replace(THERE, failed="no such file", rollout=replace(DONE, updated=0))
    loaded = replace(THERE, failed="no such file")

    assert step(replace(STARTED, target=loading)) == Wait("no such file")
    assert step(replace(STARTED, target=loaded)) == Smoke(NEW)


def test_an_answer_counts_when_version_and_probabilities_are_those_that_were_logged() -> None:
    logged = [[0.1, 0.2, 0.7]]

    assert smoke_problem("3", "3", logged, [[0.1004, 0.1996, 0.7]], 1e-3) == ""
    assert smoke_problem("3", "2", logged, logged, 1e-3) == "the predictor answers with version 2"
    assert "0.6000 off" in smoke_problem("3", "3", logged, [[0.7, 0.2, 0.1]], 1e-3)


def service(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "uid": "uid",
            "generation": 5,
            "annotations": {
                VERSION_ANNOTATION: NEW.version,
                STARTED_ANNOTATION: NOW.isoformat(),
                STOP_ANNOTATION: "false",
            },
        },
        "spec": {"predictor": {"model": {"storageUri": NEW.storage_uri}}},
        "status": status,
    }


def deployment(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"generation": 4},
        "spec": {
            "replicas": 2,
            "template": {"metadata": {"annotations": {VERSION_ANNOTATION: NEW.version}}},
        },
        "status": status,
    }


def test_a_finished_rollout_is_read_from_what_the_api_server_gives() -> None:
    counts = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}

    target = target_of(
        service(conditions=[{"type": "Ready", "status": "True"}]),
        deployment(observedGeneration=4, **counts),
    )

    assert target == THERE


def test_an_inference_service_that_nobody_has_looked_at_is_read_too() -> None:
    bare = {"metadata": {"uid": "uid", "generation": 1}, "spec": {"predictor": {"model": {}}}}

    target = target_of(bare, None)

    unready = "the InferenceService is not ready"
    assert target == Target("uid", 1, None, None, None, False, unready, None, None)


@pytest.mark.parametrize("written", ["yesterday", "2030-01-01", "2030-01-01T12:00:00", ""])
def test_a_start_that_is_no_time_is_none(written: str) -> None:
    given = service()
    given["metadata"]["annotations"] = {STARTED_ANNOTATION: written, STOP_ANNOTATION: "true"}

    target = target_of(given, None)

    assert (target.started, target.stopped) == (None, True)


def test_reasons_are_read_with_what_kubernetes_and_kserve_say() -> None:
    target = target_of(
        service(
            conditions=[{"type": "Ready", "status": "False", "reason": "PredictorNotReady"}],
            modelStatus={
                "transitionStatus": "BlockedByFailedLoad",
                "lastFailureInfo": {
                    "reason": "ModelLoadFailed",
                    "message": "Traceback:\n  x\n403\n",
                },
            },
        ),
        deployment(
            observedGeneration=3,
            conditions=[
                {"type": "Available", "status": "True"},
                {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"},
            ],
        ),
    )

    assert target.unready == "the InferenceService is not ready: PredictorNotReady"
    assert target.failed == "the model cannot be loaded: ModelLoadFailed: 403"
    assert target.rollout is not None
    assert not target.rollout.observed
    assert target.rollout.stalled == "the rollout does not progress: ProgressDeadlineExceeded"


@pytest.mark.parametrize(
    "download_uri",
    [
        "mlflow-artifacts:/1/models/m-3/artifacts",
        "mlflow-artifacts:/1/models/m-3/artifacts/",
        "mlflow-artifacts://mlflow:5000/1/models/m-3/artifacts",
        "s3://moodstream/mlflow/1/models/m-3/artifacts",
    ],
)
@pytest.mark.parametrize("root", [ROOT, f"{ROOT}/"])
def test_an_artifact_address_of_mlflow_becomes_one_that_kserve_reads(
    download_uri: str, root: str
) -> None:
    assert storage_uri(download_uri, root) == NEW.storage_uri


@pytest.mark.parametrize(
    "download_uri",
    [
        "s3://somewhere/else/1/models/m-3/artifacts",
        "s3://moodstream/mlflow-other/1/models/m-3/artifacts",
        "s3://moodstream/mlflow",
        "file:///etc",
        "/etc",
        "mlflow-artifacts:/",
        "mlflow-artifacts:/../../secrets",
        "mlflow-artifacts:/1/%2e%2e/%2e%2e/secrets",
        "s3://moodstream/mlflow/../secrets",
    ],
)
def test_files_outside_the_artifacts_are_never_served(download_uri: str) -> None:
    with pytest.raises(OutsideArtifactsError):
        storage_uri(download_uri, ROOT)
