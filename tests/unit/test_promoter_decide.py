"""What the promoter decides, from plain data."""

from dataclasses import replace
from typing import Any

import pytest

from services.promoter.decide import (
    VERSION_ANNOTATION,
    Champion,
    OutsideArtifactsError,
    Promote,
    Rest,
    Rollout,
    Stalled,
    Target,
    Verify,
    Wait,
    decide,
    storage_uri,
    target_of,
)

ROOT = "s3://moodstream/mlflow"
CHAMPION = Champion("3", f"{ROOT}/1/models/m-3/artifacts")
DONE = Rollout("3", observed=True, wanted=2, total=2, updated=2, available=2, stalled=None)
SERVING = Target(
    "uid", 5, CHAMPION.version, CHAMPION.storage_uri, unready=None, failed=None, rollout=DONE
)


def test_a_version_that_the_inference_service_does_not_name_is_promoted() -> None:
    older = replace(SERVING, version="2", storage_uri=f"{ROOT}/1/models/m-2/artifacts")
    fresh = replace(SERVING, version=None, storage_uri=None, rollout=None)

    steps = [decide(CHAMPION, target) for target in (older, fresh)]

    assert steps == [Promote(CHAMPION, older), Promote(CHAMPION, fresh)]


@pytest.mark.parametrize("changed", [{"version": "2"}, {"storage_uri": "s3://elsewhere"}])
def test_half_of_a_version_is_put_right(changed: dict[str, str]) -> None:
    target = replace(SERVING, **changed)  # type: ignore[arg-type]

    assert decide(CHAMPION, target) == Promote(CHAMPION, target)


def test_without_the_alias_what_is_served_stays() -> None:
    assert decide(None, SERVING) == Rest("no version has the alias")


def test_without_an_inference_service_it_waits() -> None:
    assert decide(CHAMPION, None) == Wait("the InferenceService does not exist yet")


def test_a_complete_rollout_is_verified() -> None:
    assert decide(CHAMPION, SERVING) == Verify(CHAMPION, SERVING)


@pytest.mark.parametrize(
    ("rollout", "reason"),
    [
        (None, "KServe has not begun the rollout yet"),
        (replace(DONE, version="2"), "KServe has not begun the rollout yet"),
        (replace(DONE, observed=False), "KServe has not begun the rollout yet"),
        (replace(DONE, updated=1, available=1), "1 of 2 pods have been made"),
        (replace(DONE, available=1), "1 of 2 pods are available"),
        (replace(DONE, total=3), "1 pods of the version before are still there"),
    ],
)
def test_a_ready_inference_service_is_not_enough_while_pods_are_replaced(
    rollout: Rollout | None, reason: str
) -> None:
    assert decide(CHAMPION, replace(SERVING, rollout=rollout)) == Wait(reason)


def test_pods_are_not_enough_while_kserve_does_not_call_it_ready() -> None:
    assert decide(CHAMPION, replace(SERVING, unready="not yet")) == Wait("not yet")


def test_a_rollout_that_kubernetes_has_given_up_is_stalled() -> None:
    target = replace(SERVING, rollout=replace(DONE, available=1, stalled="too late"))

    assert decide(CHAMPION, target) == Stalled("too late", target)


def test_a_model_that_cannot_be_loaded_is_stalled_until_the_rollout_is_complete() -> None:
    loading = replace(SERVING, failed="no such file", rollout=replace(DONE, updated=0))
    loaded = replace(SERVING, failed="no such file")

    assert decide(CHAMPION, loading) == Stalled("no such file", loading)
    assert decide(CHAMPION, loaded) == Verify(CHAMPION, loaded)


def service(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "uid": "uid",
            "generation": 5,
            "annotations": {VERSION_ANNOTATION: CHAMPION.version},
        },
        "spec": {"predictor": {"model": {"storageUri": CHAMPION.storage_uri}}},
        "status": status,
    }


def deployment(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"generation": 4},
        "spec": {
            "replicas": 2,
            "template": {"metadata": {"annotations": {VERSION_ANNOTATION: CHAMPION.version}}},
        },
        "status": status,
    }


def test_a_finished_rollout_is_read_from_what_the_api_server_gives() -> None:
    counts = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}

    target = target_of(
        service(conditions=[{"type": "Ready", "status": "True"}]),
        deployment(observedGeneration=4, **counts),
    )

    assert target == SERVING


def test_an_inference_service_that_nobody_has_looked_at_is_read_too() -> None:
    bare = {"metadata": {"uid": "uid", "generation": 1}, "spec": {"predictor": {"model": {}}}}

    target = target_of(bare, None)

    assert target == Target("uid", 1, None, None, "the InferenceService is not ready", None, None)


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
    assert storage_uri(download_uri, root) == CHAMPION.storage_uri


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
