"""The dashboard over a real warehouse, in a real browser."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from services.consumer.batch import Record, ScoredBatch, decode_batch
from services.consumer.store import Store
from services.core.events import Post, encode
from services.core.postgres import connect, transaction
from tests.integration.conftest import PostgresHandle
from tests.missing import missing
from tests.ports import free_port
from tests.waiting import status, wait_until

TOKEN = "the-token-of-the-test"  # noqa: S105 - of the test
HOSTILE = '<script>document.title="taken"</script><img src=x onerror="document.title=\'taken\'">'

expect.set_options(timeout=30_000)  # milliseconds: a page on a busy machine


def store(postgres: PostgresHandle, texts: Sequence[str]) -> None:
    """Puts posts into the warehouse as the consumer does, all of them positive."""
    now = datetime.now(UTC)
    posts = [
        Post(
            source="replay", id=str(i), text=text, language="en", created_at=now, topics=("trains",)
        )
        for i, text in enumerate(texts)
    ]
    records = [Record("posts", 0, i, 0, None, encode(post)) for i, post in enumerate(posts)]
    batch = decode_batch(0, "posts", {0: records}, {0: 0}, now)
    rows = np.tile(np.array([0.1, 0.2, 0.7], dtype=np.float32), (len(texts), 1))
    warehouse = Store(postgres.settings, "test")
    warehouse.place("posts", 0, 0, len(texts))
    warehouse.write(ScoredBatch(batch, range(len(texts)), [], rows, "sentiment", "1"))
    warehouse.close()


def execute(postgres: PostgresHandle, sql: str, *arguments: object) -> None:
    connection = connect(postgres.settings, "test")
    with transaction(connection, 30) as cursor:
        cursor.execute(sql, arguments or None)
    connection.close()


def promote(
    postgres: PostgresHandle, *changes: tuple[str, str, str], reason: str = "all checks passed"
) -> None:
    """States of versions under aliases, a second apart, the last one now."""
    now = datetime.now(UTC)
    for i, (alias, version, state) in enumerate(changes):
        execute(
            postgres,
            "INSERT INTO promotions (alias, version, state, reason, at) VALUES (%s,%s,%s,%s,%s)",
            alias,
            version,
            state,
            reason,
            now - timedelta(seconds=len(changes) - 1 - i),
        )


def shadow(postgres: PostgresHandle, posts: int, age: timedelta = timedelta()) -> None:
    """Posts on which champion 7 says positive and challenger 8 says neutral for every fourth."""
    execute(
        postgres,
        "INSERT INTO shadow_predictions (source, id, champion_version, champion_label, "
        "champion_score, model_name, model_version, label, p_negative, p_neutral, p_positive, "
        "stored_at) SELECT 'replay', %s || '-' || n, '7', 'positive', 0.6, 'sentiment', '8', "
        "(CASE n %% 4 WHEN 0 THEN 'neutral' ELSE 'positive' END)::sentiment, 0.1, 0.4, 0.5, "
        "now() - %s FROM generate_series(1, %s) AS n",
        str(age),
        age,
        posts,
    )
    execute(
        postgres,
        "INSERT INTO shadow_batches (champion_version, challenger_version, posts, "
        "champion_seconds, challenger_seconds, stored_at) "
        "SELECT '7', '8', 20, 0.001 * n, 0.002 * n, now() - %s FROM generate_series(1, 101) AS n",
        age,
    )


def get(address: str) -> Any:
    """The JSON that an address answers."""
    with urllib.request.urlopen(address) as answer:
        return json.load(answer)


@contextmanager
def serving(postgres: PostgresHandle, **settings: str) -> Iterator[str]:
    """Address of a dashboard over this warehouse; settings are environment variables without
    MOODSTREAM_.
    """
    port = free_port()
    password = postgres.settings.password
    environment = {
        "POSTGRES_HOST": postgres.settings.host,
        "POSTGRES_PORT": str(postgres.settings.port),
        "POSTGRES_DATABASE": postgres.settings.database,
        "POSTGRES_PASSWORD": password.get_secret_value() if password else "",
        "SERVICE_BIND": "127.0.0.1",
        "SERVICE_PORT": str(port),
    } | settings
    process = subprocess.Popen(
        [sys.executable, "-m", "services.dashboard"],
        env=os.environ | {f"MOODSTREAM_{name}": value for name, value in environment.items()},
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: status(f"{address}/livez") == 200, 120)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.fixture
def url(postgres: PostgresHandle) -> Iterator[str]:
    """Address of a dashboard over this test's warehouse."""
    with serving(postgres) as address:
        yield address


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page of a real Chromium."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        missing("no Chromium here: install Debian's package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser.new_page()
        browser.close()


def test_a_stored_post_appears_on_the_open_page_without_a_reload(
    url: str, page: Page, postgres: PostgresHandle
) -> None:
    page.goto(url)
    expect(page.locator("#state")).to_contain_text("waiting for the first post")

    store(postgres, ["the 7:40 was on time for once"])

    expect(page.locator("#newest")).to_contain_text("the 7:40 was on time for once")
    expect(page.locator("#positive")).to_have_text("1")
    expect(page.locator("#average")).to_have_text("+0.60")


def test_a_hostile_post_shows_as_text(url: str, page: Page, postgres: PostgresHandle) -> None:
    store(postgres, [HOSTILE])
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))

    page.goto(url)

    expect(page.locator("#newest p")).to_have_text(HOSTILE)
    assert page.title() == "moodstream"
    assert page.locator("#newest img, #newest script").count() == 0
    assert messages == []


def test_the_page_works_on_a_phone_without_scrolling_sideways(
    url: str, page: Page, postgres: PostgresHandle
) -> None:
    store(postgres, ["x" * 5_000, "fine"])
    page.set_viewport_size({"width": 360, "height": 740})

    page.goto(url)
    expect(page.locator("#newest li")).to_have_count(2)

    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_while_the_database_is_away_the_page_keeps_its_last_figures_and_says_so(
    url: str, page: Page, postgres: PostgresHandle
) -> None:
    store(postgres, ["still here"])
    page.goto(url)
    expect(page.locator("#newest")).to_contain_text("still here")

    postgres.stop()
    try:
        expect(page.locator("#state")).to_contain_text("database is away")
        expect(page.locator("#newest")).to_contain_text("still here")
        ready = status(f"{url}/readyz")
    finally:
        postgres.start()

    assert ready == 503
    expect(page.locator("#state")).to_contain_text("live")


def test_the_api_gives_the_page_as_json(url: str, postgres: PostgresHandle) -> None:
    store(postgres, ["one", "two"])

    with urllib.request.urlopen(f"{url}/api/snapshot") as answer:
        snapshot = json.load(answer)

    assert snapshot["promotions"] == snapshot["drift"] == []
    assert snapshot["days"][0] | {"start": None} == {
        "topic": "*", "start": None, "posts": 2, "negative": 0, "neutral": 0, "positive": 2,
        "unscored": 0, "average_score": pytest.approx(0.6),
    }  # fmt: skip


def test_champion_and_challenger_are_compared_on_the_last_day(
    url: str, postgres: PostgresHandle
) -> None:
    promote(
        postgres,
        ("champion", "6", "serving"),
        ("champion", "7", "rolling out"),
        ("champion", "6", "replaced"),
        ("champion", "7", "serving"),
        ("challenger", "8", "serving"),
        ("champion", "9", "refused"),
    )
    shadow(postgres, 400)
    shadow(postgres, 1_000, timedelta(hours=25))

    models = get(f"{url}/api/models")

    assert (models["champion"]["version"], models["champion"]["state"]) == ("7", "serving")
    assert (models["challenger"]["version"], models["challenger"]["state"]) == ("8", "serving")
    comparison = models["comparison"]
    assert (comparison["posts"], comparison["agreement"]) == (400, 0.75)
    assert comparison["champion"] == {
        "version": "7", "negative": 0, "neutral": 0, "positive": 1,
        "average_score": pytest.approx(0.6), "p50_seconds": pytest.approx(0.051),
        "p99_seconds": pytest.approx(0.1),
    }  # fmt: skip
    assert comparison["challenger"] == {
        "version": "8", "negative": 0, "neutral": 0.25, "positive": 0.75,
        "average_score": pytest.approx(0.4), "p50_seconds": pytest.approx(0.102),
        "p99_seconds": pytest.approx(0.2),
    }  # fmt: skip


@pytest.mark.parametrize("last", ["refused", "replaced", "rolled back"])
def test_without_a_challenger_that_serves_there_is_no_comparison(
    url: str, postgres: PostgresHandle, last: str
) -> None:
    promote(
        postgres,
        ("champion", "7", "serving"),
        ("challenger", "8", "serving"),
        ("challenger", "8", last),
    )
    shadow(postgres, 4)

    models = get(f"{url}/api/models")

    assert models["challenger"]["state"] == last
    assert models["comparison"] is None


def test_promotions_are_asked_for_since_a_moment(url: str, postgres: PostgresHandle) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1.5)
    promote(
        postgres,
        ("champion", "6", "serving"),
        ("champion", "6", "replaced"),
        ("champion", "7", "serving"),
    )

    everything = get(f"{url}/api/promotions")
    since = get(f"{url}/api/promotions?{urlencode({'since': before.isoformat()})}")

    assert [(p["version"], p["state"]) for p in everything] == [
        ("6", "serving"),
        ("6", "replaced"),
        ("7", "serving"),
    ]
    assert since == everything[1:]
    assert status(f"{url}/api/promotions?since=yesterday") == 422


def test_drift_is_in_the_metrics_and_its_absence_harms_nothing(
    url: str, postgres: PostgresHandle
) -> None:
    def metrics() -> str:
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            return str(answer.read().decode())

    without = metrics()
    execute(
        postgres,
        "INSERT INTO drift (day, model_version, measure, posts, mean, psi) VALUES "
        "('2026-11-20', '7', 'score', 9, 0.1, 0.9), ('2026-11-21', '7', 'score', 9, 0.2, 0.05), "
        "('2026-11-21', '7', 'vocabulary', 9, 0.7, NULL)",
    )
    wait_until(lambda: "moodstream_drift_mean{" in metrics(), 10)

    found = metrics()

    assert "moodstream_drift_psi{" not in without
    assert 'moodstream_drift_psi{measure="score"} 0.05' in found
    assert 'moodstream_drift_mean{measure="score"} 0.2' in found
    assert 'moodstream_drift_mean{measure="vocabulary"} 0.7' in found
    assert 'moodstream_drift_psi{measure="vocabulary"}' not in found


def test_the_metrics_are_served_while_the_database_is_away(
    url: str, postgres: PostgresHandle
) -> None:
    postgres.stop()
    try:
        answer = status(f"{url}/metrics")
    finally:
        postgres.start()

    assert answer == 200


def test_the_page_compares_the_models_and_marks_what_happened(
    url: str, page: Page, postgres: PostgresHandle
) -> None:
    store(postgres, ["a post"])
    # Each of them now: the chart begins with the minute of the post.
    promote(postgres, ("champion", "7", "serving"))
    promote(postgres, ("challenger", "8", "serving"))
    promote(postgres, ("champion", "9", "refused"), reason=f"quality: {HOSTILE}")
    shadow(postgres, 400)

    page.goto(url)

    expect(page.locator("#models-summary")).to_have_text(
        "champion 7 | challenger 8: agrees on 75.0 % of 400 posts"
    )
    challenger = page.locator("#comparison tbody tr").nth(1)
    expect(challenger).to_contain_text("75.0 %")
    expect(challenger).to_contain_text("102.0 ms")
    titles = page.locator("#minutes line title")
    assert [text.split(" at ")[0].split(" since ")[0] for text in titles.all_text_contents()] == [
        "champion: version 7 serves",
        "challenger: version 8 serves",
        "champion: version 9 refused",
    ]
    expect(page.locator("#promotions")).to_contain_text(HOSTILE)
    assert page.title() == "moodstream"


def test_a_label_is_corrected_with_the_keyboard_alone_and_the_name_is_asked_once(
    url: str, page: Page, postgres: PostgresHandle
) -> None:
    store(postgres, ["oh great, late again", "fine"])
    page.goto(url)
    expect(page.locator("#newest li")).to_have_count(2)

    page.locator("#newest summary").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.type(HOSTILE)
    page.keyboard.press("Enter")

    first = page.locator("#newest li").first
    expect(first).to_contain_text(f"corrected to negative by {HOSTILE}")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(first).to_contain_text(f"corrected to neutral by {HOSTILE}")
    expect(page.locator("#who")).not_to_be_visible()
    expect(page.locator("#held")).to_be_visible()
    page.reload()
    expect(page.locator("#newest")).to_contain_text(f"corrected to neutral by {HOSTILE}")
    assert page.title() == "moodstream"


def test_the_page_asks_for_the_token_and_says_when_it_is_wrong(
    page: Page, postgres: PostgresHandle
) -> None:
    store(postgres, ["fine"])

    with serving(postgres, DASHBOARD_EDITOR_TOKEN=TOKEN) as url:
        page.goto(url)
        for token in ("wrong", TOKEN):
            page.locator("#newest summary").click()
            page.get_by_role("button", name="neutral").click()
            page.get_by_label("Your name").fill("Ada")
            page.get_by_label("Token").fill(token)
            page.get_by_role("button", name="Go on").click()
            if token != TOKEN:
                expect(page.locator("#correcting")).to_contain_text("needs the editor's token")
                page.mouse.move(0, 0)
                page.locator("h1").click()
                page.evaluate("document.activeElement.blur()")
                expect(page.locator("#newest details[open]")).to_have_count(0)

        expect(page.locator("#newest li")).to_contain_text("corrected to neutral by Ada")
        page.goto("about:blank")


def test_a_page_that_may_not_correct_shows_no_controls(
    page: Page, postgres: PostgresHandle
) -> None:
    store(postgres, ["fine"])
    page.set_extra_http_headers({"X-Forwarded-For": "10.0.0.1"})

    with serving(postgres, DASHBOARD_READING="open") as url:
        page.goto(url)

        expect(page.locator("#newest li")).to_have_count(1)
        expect(page.locator("#newest summary")).to_have_count(0)
        page.goto("about:blank")


def test_a_token_in_the_pages_address_becomes_a_cookie(
    page: Page, postgres: PostgresHandle
) -> None:
    store(postgres, ["fine"])
    page.set_extra_http_headers({"X-Forwarded-For": "10.0.0.1"})

    with serving(postgres, DASHBOARD_VIEWER_TOKEN=TOKEN) as url:
        refused = [status(f"{url}{path}") for path in ("/api/snapshot", "/api/series?token=wrong")]
        by_address = status(f"{url}/api/series?token={TOKEN}")
        page.goto(f"{url}/?token={TOKEN}")
        expect(page.locator("#newest li")).to_have_count(1)
        address, cookies = page.url, page.evaluate("document.cookie")
        page.goto("about:blank")

    assert by_address == 200
    assert refused == [200, 200]  # From this machine; the page's requests are from elsewhere.
    assert TOKEN not in address
    assert TOKEN not in cookies
