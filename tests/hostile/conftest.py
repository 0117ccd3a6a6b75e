"""The real parts of the integration tests, given hostile input."""

from uuid import uuid4

import pytest

from services.core.warehouse import upgrade
from services.local.postgres import Postgres
from tests.integration.conftest import (
    PostgresHandle,
    platform_home,
    postgres,
    postgres_server,
    predictor,
)

__all__ = ["platform_home", "postgres", "postgres_server", "predictor"]


@pytest.fixture(scope="module")
def warehouse(postgres_server: Postgres) -> PostgresHandle:
    """A migrated warehouse that the examples of a module's tests share."""
    database = f"hostile_{uuid4().hex[:8]}"
    postgres_server.create_database(database)
    settings = postgres_server.settings_of(database)
    upgrade(settings)
    return PostgresHandle(postgres_server, settings)
