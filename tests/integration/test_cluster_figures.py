"""What `make status` asks of the database, asked of a real one."""

from datetime import UTC, datetime

from services.cluster.warehouse import _FIGURES, Figures
from tests.integration.conftest import PostgresHandle
from tests.integration.test_corrections import query
from tests.integration.test_dashboard import store


def test_a_warehouse_without_a_post_has_figures_too(postgres: PostgresHandle) -> None:
    [(found,)] = query(postgres.settings, _FIGURES)

    assert Figures(**found) == Figures(0, 0, None, 0, 0, None)


def test_alerts_messages_and_the_lake_are_counted(postgres: PostgresHandle) -> None:
    store(postgres, ["one"])
    now = datetime.now(UTC)
    for closed in (None, now):
        query(
            postgres.settings,
            "INSERT INTO alerts (rule, kind, topic, posts, summary, opened_at, closed_at)"
            " VALUES ('r', 'silence', '*', 0, 's', %s, %s)",
            now,
            closed,
        )
    for state in ("pending", "failed", "delivered"):
        query(
            postgres.settings,
            "INSERT INTO deliveries (channel, kind, payload, state) VALUES ('c', 'k', '{}', %s)",
            state,
        )
    query(
        postgres.settings,
        "INSERT INTO lake_days (day, posts, in_warehouse, bytes, revision)"
        " VALUES ('2026-11-21', 1, 1, 1, 1), ('2026-11-22', 1, 1, 1, 1)",
    )

    [(found,)] = query(postgres.settings, _FIGURES)

    figures = Figures(**found)
    assert (figures.open_alerts, figures.undelivered) == (1, 2)
    assert figures.lake_until == "2026-11-22"
    assert figures.newest_age_seconds is not None
