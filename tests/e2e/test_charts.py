"""The charts' own checks of what they have installed."""

import pytest

from tests.e2e.deployed import RELEASES, Platform

_CHECK_SECONDS = 180


@pytest.mark.parametrize("release", RELEASES)
def test_a_releases_own_check_passes(platform: Platform, release: str) -> None:
    said = platform.helm(
        "test", release, "--timeout", f"{_CHECK_SECONDS}s", seconds=_CHECK_SECONDS + 30
    )

    assert "Phase:          Succeeded" in said
