"""Takes the dashboard's pictures: `make screenshots`. Real parts, made-up posts, Chromium."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from playwright.sync_api import Page, expect, sync_playwright

from services.core.rules import Rule
from services.local.workloads import SAMPLE
from tests.bench.warehouse import execute, running, seed
from tests.integration.predictor import Predictor
from tests.ports import free_port
from tests.waiting import status, wait_until
from training.readers import read

_FOLDER: Final = Path(__file__).parent / "screenshots"
_POSTS: Final = 1_800_000
_WIDE: Final = (1180, 1500)

# As many posts each day, fewer at night, and a mood that comes and goes in twelve days, with better
# and worse ones among them; trains had a bad time a week ago.
_LEFT_OUT: Final = """
id::int %% 3 = 0 OR random() > (
    0.6 - 0.3 * cos(extract(hour FROM created_at) / 12 * pi())) * (
    1 + CASE label WHEN 'negative' THEN 0.5 WHEN 'positive' THEN -0.5 ELSE 0 END * (
        0.4 * sin(extract(epoch FROM now() - created_at) / 86400 / 12 * 2 * pi())
        + 0.4 * sin(hashtext(created_at::date::text))
        + CASE WHEN 'trains' = ANY (topics)
            AND now() - created_at BETWEEN interval '6 days' AND interval '8 days'
            THEN 1 ELSE 0 END))
"""


def _prepare(folder: Path) -> None:
    """Puts them into the folder."""
    folder.mkdir(exist_ok=True)
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("no Chromium here: install Debian's package chromium")
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        home.chmod(0o755)  # PostgreSQL may run under another user.
        postgres = stack.enter_context(running(home))
        predictor = Predictor(home, free_port(), free_port())
        predictor.start()
        stack.callback(predictor.stop)
        port = free_port()
        password = postgres.settings.password
        environment = {
            "MOODSTREAM_POSTGRES_HOST": postgres.settings.host,
            "MOODSTREAM_POSTGRES_PORT": str(postgres.settings.port),
            "MOODSTREAM_POSTGRES_PASSWORD": password.get_secret_value() if password else "",
            "MOODSTREAM_INFERENCE_URL": predictor.url,
            "MOODSTREAM_SERVICE_BIND": "127.0.0.1",
            "MOODSTREAM_SERVICE_PORT": str(port),
        }
        dashboard = subprocess.Popen(
            [sys.executable, "-m", "services.dashboard"], env=os.environ | environment
        )
        stack.callback(dashboard.wait)
        stack.callback(dashboard.send_signal, signal.SIGTERM)
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: status(f"{url}/readyz") == 200, 60)
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"]
        )
        stack.callback(browser.close)

        def page(scheme: str = "light", size: tuple[int, int] = _WIDE) -> Page:
            context = browser.new_context(
                color_scheme="dark" if scheme == "dark" else "light",
                viewport={"width": size[0], "height": size[1]},
                locale="en-GB",
                timezone_id="Europe/Paris",
            )
            opened = context.new_page()
            opened.goto(f"{url}/?range=30d")
            expect(opened.locator("#state")).to_contain_text("live", timeout=30_000)
            return opened

        sample = read(SAMPLE)
        seed(postgres, _POSTS, sample.texts, sample.labels, without=_LEFT_OUT)
        _people(postgres)
        for name, opened in (("light", page()), ("dark", page("dark"))):
            expect(opened.locator("#drivers-positive li").nth(3)).to_be_visible(timeout=30_000)
            opened.screenshot(path=folder / f"{name}.png", full_page=name == "light")
        opened = page(size=(1180, 420))
        opened.locator("#sentence").fill("The new line is wonderful, but the 7:40 was late :(")
        opened.get_by_role("button", name="Score").click()
        expect(opened.locator("#tried mark").first).to_be_visible()
        opened.locator("#try").screenshot(path=folder / "try.png")
        opened = page()
        postgres.process.stop()
        expect(opened.locator("#state")).to_contain_text("database is away", timeout=60_000)
        opened.screenshot(path=folder / "database-away.png")


def _people(postgres: object) -> None:
    """A rule, an alert, promotions."""
    now = datetime.now(UTC)
    rule = Rule(name="trains-turn-sour", kind="negative_share", topic="trains", threshold=0.4)
    execute(
        postgres,  # type: ignore[arg-type]
        (
            "INSERT INTO rules (name, rule) VALUES (%(name)s, %(rule)s)",
            {"name": rule.name, "rule": rule.model_dump_json()},
        ),
        (
            "INSERT INTO alerts (rule, kind, topic, value, posts, summary, opened_at, closed_at) "
            "VALUES (%(name)s, 'negative_share', 'trains', 0.46, 61, "
            "'trains: 46 %% negative of 61 posts in the last 15 minutes', %(at)s, %(end)s)",
            {
                "name": rule.name,
                "at": now - timedelta(hours=5),
                "end": now - timedelta(hours=4, minutes=20),
            },
        ),
        (
            "INSERT INTO promotions (alias, version, state, reason, at) VALUES "
            "('champion', '7', 'serving', 'all checks passed', %(first)s), "
            "('challenger', '8', 'refused', 'quality: macro recall 0.41 is below the floor 0.50', "
            "%(second)s)",
            {"first": now - timedelta(days=9), "second": now - timedelta(days=3)},
        ),
    )


if __name__ == "__main__":
    _prepare(_FOLDER)
