"""The dashboard over a real warehouse, in a real browser."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from services.consumer.batch import Record, ScoredBatch, decode_batch
from services.consumer.store import Store
from services.core.events import Post, encode
from tests.integration.conftest import PostgresHandle
from tests.missing import missing
from tests.ports import free_port
from tests.waiting import status, wait_until

HOSTILE = '<script>document.title="taken"</script><img src=x onerror="document.title=\'taken\'">'


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


@pytest.fixture
def url(postgres: PostgresHandle) -> Iterator[str]:
    """Address of a dashboard over this test's warehouse."""
    port = free_port()
    password = postgres.settings.password
    environment = {
        "MOODSTREAM_POSTGRES_HOST": postgres.settings.host,
        "MOODSTREAM_POSTGRES_PORT": str(postgres.settings.port),
        "MOODSTREAM_POSTGRES_DATABASE": postgres.settings.database,
        "MOODSTREAM_POSTGRES_PASSWORD": password.get_secret_value() if password else "",
        "MOODSTREAM_SERVICE_BIND": "127.0.0.1",
        "MOODSTREAM_SERVICE_PORT": str(port),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "services.dashboard"], env=os.environ | environment
    )
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: status(f"{address}/livez") == 200, 30)
    yield address
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


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
        expect(page.locator("#state")).to_contain_text("database is away", timeout=20_000)
        expect(page.locator("#newest")).to_contain_text("still here")
        ready = status(f"{url}/readyz")
    finally:
        postgres.start()

    assert ready == 503
    expect(page.locator("#state")).to_contain_text("live", timeout=20_000)


def test_the_api_gives_the_page_as_json(url: str, postgres: PostgresHandle) -> None:
    store(postgres, ["one", "two"])

    with urllib.request.urlopen(f"{url}/api/snapshot") as answer:
        snapshot = json.load(answer)

    assert snapshot["days"][0] | {"start": None} == {
        "topic": "*", "start": None, "posts": 2, "negative": 0, "neutral": 0, "positive": 2,
        "unscored": 0, "average_score": pytest.approx(0.6),
    }  # fmt: skip
