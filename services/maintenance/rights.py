"""Rights in the warehouse that are not the owner's: what the dashboard's role may write."""

import logging
from typing import Final

from services.core.postgres import connect, transaction
from services.core.settings import PostgresSettings

log = logging.getLogger(__name__)

_TRANSACTION_SECONDS: Final = 30.0

_STATEMENT: Final = (
    "SELECT format('GRANT INSERT ON corrections TO %%I', rolname) FROM pg_roles WHERE rolname = %s"
)


def allow_corrections(settings: PostgresSettings, role: str) -> bool:
    """Lets a role add corrections, and says whether there is such a role. Safe to repeat.

    Raises TemporaryError. A role that is not there is a warning: the posts do not wait for it.
    """
    connection = connect(settings, "moodstream migrate")
    try:
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            cursor.execute(_STATEMENT, (role,))
            found = cursor.fetchone()
            if found is None:
                log.warning(
                    "corrections.not_granted",
                    extra={"role": role, "to_do": "create the role, then run migrate again"},
                )
                return False
            cursor.execute(found[0])
            return True
    finally:
        connection.close()
