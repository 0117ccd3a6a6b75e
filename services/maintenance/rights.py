"""Rights in the warehouse that are not the owner's: what the dashboard's role may write."""

import logging
from collections.abc import Mapping
from typing import Final

from services.core.postgres import connect, transaction
from services.core.settings import PostgresSettings

log = logging.getLogger(__name__)

_TRANSACTION_SECONDS: Final = 30.0

_DASHBOARD: Final[Mapping[str, str]] = {
    "corrections": "INSERT",
    "rules": "INSERT, UPDATE, DELETE",
    # The test of a rule.
    "outbox": "INSERT",
    # A replay.
    "deliveries": "UPDATE (state, tries, next_at)",
}
"""What it may do with each table besides reading."""

_GRANT: Final = (
    "SELECT format('GRANT {rights} ON {table} TO %%I', rolname) FROM pg_roles WHERE rolname = %s"
)


def allow_dashboard(settings: PostgresSettings, role: str) -> bool:
    """Lets a role write what people write in the dashboard, and says whether there is such a role.
    Safe to repeat.

    Raises TemporaryError. A role that is not there is a warning: the posts do not wait for it.
    """
    connection = connect(settings, "moodstream migrate")
    try:
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            for table, rights in _DASHBOARD.items():
                cursor.execute(_GRANT.format(table=table, rights=rights), (role,))
                found = cursor.fetchone()
                if found is None:
                    log.warning(
                        "dashboard.not_granted",
                        extra={"role": role, "to_do": "create the role, then run migrate again"},
                    )
                    return False
                cursor.execute(found[0])
            return True
    finally:
        connection.close()
