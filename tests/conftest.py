"""What all tiers share."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import apiserver

# A busy machine is slow, not wrong: no test fails for its time.
settings.register_profile("moodstream", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("moodstream")


@pytest.fixture(scope="session")
def api_server() -> Iterator[apiserver.ApiServer]:
    """A real API server with the CRDs of the pinned versions."""
    with apiserver.api_server() as server:
        yield server
