"""Where the promoter may be told that artifacts are."""

import pytest

from services.core.errors import SettingsError
from services.core.settings import load
from services.promoter.settings import PromoterSettings

VARIABLE = "MOODSTREAM_PROMOTER_ARTIFACT_ROOT"


@pytest.mark.parametrize("root", ["s3://bucket", "s3://bucket/mlflow", "gs://b", "file:///a/b"])
def test_a_bucket_or_a_folder_can_hold_the_artifacts(
    monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.setenv(VARIABLE, root)

    assert load(PromoterSettings).artifact_root == root


@pytest.mark.parametrize("root", ["", "bucket", "/a/b", "s3://", "s3:///a", "file:///", "file://"])
def test_an_artifact_root_that_names_no_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.setenv(VARIABLE, root)

    with pytest.raises(SettingsError, match=VARIABLE):
        load(PromoterSettings)
