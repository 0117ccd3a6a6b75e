"""Records the demo video: `make video`. A real `make demo`, its real pages in Chromium, a real
shell; and a cluster, where kubectl reaches one with the platform in it.

Nothing is drawn for the camera but titles and captions. Waiting is cut.
"""

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, expect, sync_playwright

from docs.film import HEIGHT, WIDTH, Take, Terminal, cut

_ROOT: Final = Path(__file__).parents[1]
_VIDEO: Final = Path(__file__).with_name("demo.webm")
_LOOP: Final = Path(__file__).with_name("demo.webp")
_LOOP_SECONDS: Final = 10.0
_TAKES: Final = _ROOT / "build" / "video"
_UP_SECONDS: Final = 300.0
_WORK_SECONDS: Final = 120.0
_DASHBOARD: Final = "http://127.0.0.1:18000"
_MLFLOW: Final = "http://127.0.0.1:15000"
_HOOK_PORT: Final = 18099
_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of this receiver alone
_BURST_POSTS: Final = 60_000
_BROKEN, _BETTER = "2", "3"
"""The versions that are trained while it records; 1 is there from the start."""
_ELSEWHERE: Final = {".git", ".moodstream", "build"}
_TITLE: Final = """<body style="margin:0;height:100vh;display:flex;flex-direction:column;
justify-content:center;padding:0 110px;box-sizing:border-box;background:#1f2a44;color:#fff;
font:32px/1.5 'DejaVu Sans',sans-serif"><b style="font-size:70px">{}</b><span>{}</span></body>"""
_RECEIVER: Final = """
import http.server, json, os, sys
from standardwebhooks import Webhook

class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Webhook(os.environ["SECRET"]).verify(body, dict(self.headers))  # raises when it is forged
        message = json.loads(body)
        print("signature is right")
        print(json.dumps({"type": message["type"], **message["data"]}, indent=2))
        self.send_response(204)
        self.end_headers()
    def log_message(self, *words):
        pass

server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
print("waiting for messages", flush=True)
server.serve_forever()
"""


@dataclass(frozen=True)
class _Studio:
    """Everything that a scene may need."""

    take: Take
    browser: Browser
    folder: Path
    stack: ExitStack

    def page(self) -> Page:
        """An empty one."""
        context = self.browser.new_context(
            viewport={"width": WIDTH, "height": HEIGHT},
            color_scheme="dark",
            locale="en-GB",
            timezone_id="Europe/Paris",
        )
        context.set_default_timeout(60_000)
        return context.new_page()

    def terminal(self, close_seconds: float = 5.0, **environment: str) -> Terminal:
        """A shell in the project's folder."""
        kept = {name: value for name, value in os.environ.items() if "MOODSTREAM" not in name}
        path = f"{_ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
        opened = Terminal(self.page(), self.folder, {**kept, "PATH": path, **environment})
        self.stack.callback(opened.close, close_seconds)
        return opened

    def title(self, head: str, text: str, seconds: float = 3.0) -> None:
        """A card."""
        page = self.page()
        page.set_content(_TITLE.format(head, text))
        with self.take.scene(page, "", seconds):
            pass


def demo(studio: _Studio) -> None:
    """A platform that is started and stopped here."""
    take = studio.take
    studio.title("moodstream", "What people feel about a subject, live.")
    main = studio.terminal(
        90,
        MOODSTREAM_NOTIFIER_ALLOWED_HOSTS="127.0.0.1",
        MOODSTREAM_NOTIFIER_GAP_SECONDS="5",
    )
    with take.scene(main.page, "One command: Kafka, PostgreSQL, MLflow, KServe and our services."):
        main.type("make demo")
    with take.scene(main.page, "The start, ten times as fast.", speed=10):
        main.until("dashboard: http", _UP_SECONDS)
    with take.scene(main.page, "All parts at work."):
        main.show(3)
    hook = studio.terminal(PYTHONUNBUFFERED="1", SECRET=_SECRET)
    hook.type(f"python receiver.py {_HOOK_PORT}")
    hook.until("waiting for messages", _WORK_SECONDS)
    shell = studio.terminal()
    page = studio.page()
    page.goto(_DASHBOARD)
    expect(page.locator("#state")).to_contain_text("live")
    page.wait_for_timeout(20_000)  # so that there is something to see
    _dashboard(take, page)
    _alert(take, page, hook)
    _burst(take, page, shell)
    _models(take, page, studio.page(), shell)
    with take.scene(main.page, "Ctrl-C drains: every post is accounted for.", 3):
        main.press("\x03")
        main.until("unaccounted", _WORK_SECONDS)
        main.show(3)
    take.keep()


def _dashboard(take: Take, page: Page) -> None:
    take.mark()
    with take.scene(page, "Each post is read, scored by the model, stored and shown as it comes."):
        page.wait_for_timeout(6_000)
        _scroll_to(page, "#topics-title")
        page.wait_for_timeout(4_000)
    with take.scene(page, "Ask the model: it says which words decided."):
        _scroll_to(page, "#try")
        page.locator("#sentence").press_sequentially(
            "The new line is wonderful, but the 7:40 was late", delay=45
        )
        page.get_by_role("button", name="Score").click()
        expect(page.locator("#tried mark").first).to_be_visible()
        page.wait_for_timeout(2_500)


def _scroll_to(page: Page, place: str) -> None:
    page.evaluate(
        "place => document.querySelector(place).scrollIntoView({behavior: 'smooth'})", place
    )
    page.wait_for_timeout(1_200)


def _alert(take: Take, page: Page, hook: Terminal) -> None:
    with take.scene(page, "A rule: tell a webhook when a fifth of the posts is negative."):
        _scroll_to(page, "#alerts")
        page.get_by_text("a new rule").click()
        page.locator("#rule-name").press_sequentially("turns-sour", delay=40)
        page.locator("#rule-kind").select_option("negative_share")
        page.locator("#rule-threshold").press_sequentially("0.2", delay=40)
        page.locator("#rule-channels").get_by_text("hook").click()
        page.wait_for_timeout(600)
        page.get_by_role("button", name="Save", exact=True).click()
        page.locator("#name").press_sequentially("Ada", delay=60)
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#rule-list")).to_contain_text("turns-sour")
        page.wait_for_timeout(1_500)
    with take.scene(hook.page, "The receiver gets it, signed.", 3):
        hook.until("alert.opened", _WORK_SECONDS)
        hook.show(2.5)
    expect(page.locator("#alert-list")).to_contain_text("turns-sour")
    with take.scene(page, "And so it is on the dashboard."):
        _scroll_to(page, "#alerts")


def _burst(take: Take, page: Page, shell: Terminal) -> None:
    page.evaluate("() => scrollTo(0, 0)")
    with take.scene(
        shell.page, f"A burst: {_BURST_POSTS:,} posts as fast as they can be sent.", speed=2
    ):
        shell.type("export MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:19092")
        shell.type("export MOODSTREAM_REPLAY_PATH=burst.csv")
        shell.type("python -m services.producer 2>&1 | grep -o '\"published\": [0-9]*'")
    with take.scene(page, "They wait in Kafka; the consumer takes larger batches."):
        page.wait_for_timeout(7_000)
        _scroll_to(page, "#topics-title")
        page.wait_for_timeout(2_000)
    shell.until(f'"published": {_BURST_POSTS}', _WORK_SECONDS)


def _models(take: Take, dashboard: Page, mlflow: Page, shell: Terminal) -> None:
    shell.clear()
    with take.scene(shell.page, "A model from 24 posts: the gate measures it, and refuses.", 3):
        shell.type("moodstream train slang.csv")
        shell.until("seconds", _WORK_SECONDS)
        shell.show(3)
    _open_version(mlflow, _BROKEN)
    with take.scene(mlflow, "In MLflow: make this broken model the champion all the same ..."):
        _set_champion(mlflow)
    _until_said(mlflow, _BROKEN, "refused")
    with take.scene(mlflow, "... it is refused, with the reason. The old champion serves on.", 3):
        mlflow.wait_for_timeout(3_500)
    shell.clear()
    with take.scene(shell.page, "A better one: our posts and those 24.", 2.5):
        shell.type("moodstream train training/sample/posts.csv slang.csv")
        shell.until("seconds", _WORK_SECONDS)
        shell.show(2)
    _open_version(mlflow, _BETTER)
    with take.scene(mlflow, "The same alias, on the better version."):
        _set_champion(mlflow)
    _scroll_to(dashboard, "#models")
    with take.scene(
        dashboard, "It rolls out; no request fails, no post is lost. Three times as fast.", speed=3
    ):
        expect(dashboard.locator("#models")).to_contain_text(
            re.compile(rf"version {_BETTER} serves"), timeout=_WORK_SECONDS * 1000
        )
        dashboard.wait_for_timeout(2_000)
    shell.clear()
    with take.scene(shell.page, "It has learned the new words.", 3):
        shell.type('moodstream predict "the coffee is mid" "the new song slaps"')
        shell.until("negative", _WORK_SECONDS)
        shell.show(2)


def _open_version(page: Page, version: str) -> None:
    page.goto(f"{_MLFLOW}/#/models/sentiment/versions/{version}")
    page.reload()
    expect(page.get_by_text(f"Version {version}").first).to_be_visible()
    page.wait_for_timeout(2_000)
    for name in ("Close", "Toggle sidebar"):
        button = page.get_by_role("button", name=name)
        if name == "Close" and not button.is_visible():
            return
        button.click()
    page.wait_for_timeout(1_000)


def _set_champion(page: Page) -> None:
    """By hand, on MLflow's own page of a version."""
    aliases = page.get_by_text("Aliases:").locator("..").get_by_role("button")
    aliases.first.click()
    page.wait_for_timeout(800)
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").press_sequentially("champion", delay=70)
    page.keyboard.press("Enter")
    page.wait_for_timeout(800)
    dialog.get_by_role("button", name="Save").click()
    page.wait_for_timeout(1_200)


def _until_said(page: Page, version: str, word: str) -> None:
    """Reloads the page until the promoter has written its answer there."""
    for _ in range(30):
        page.wait_for_timeout(2_000)
        page.reload()
        page.wait_for_timeout(2_000)
        if page.get_by_text(word).count():
            return
    raise TimeoutError(f"MLflow's page of version {version} does not say {word!r}")


def cluster(studio: _Studio) -> None:
    """The platform in the cluster that kubectl points at."""
    take = studio.take
    studio.title("make cluster-up", "The same on Kubernetes.")
    shell = studio.terminal()
    shell.type("kubectl config set-context --current --namespace moodstream")
    shell.clear()
    with take.scene(shell.page, "The same services, with Kafka, PostgreSQL, MLflow and MinIO.", 3):
        shell.type("kubectl get pods")
        shell.until("warehouse", _WORK_SECONDS)
        shell.show(4)
    shell.clear()
    with take.scene(shell.page, "What matters in one table.", 4):
        shell.type("make status CLUSTER=current")
        shell.until("dashboard", _WORK_SECONDS)
        shell.show(4)
    _scale(take, shell)
    if shutil.which("k9s") is not None:
        shell.clear()
        with take.scene(shell.page, "k9s, with views and plugins for this platform.", 2.5):
            shell.type("make k9s CLUSTER=current")
            shell.until("moodstream-consumer", _WORK_SECONDS)
            shell.show(4)
            shell.type(":inferenceservices")
            shell.until("sentiment", _WORK_SECONDS)
            shell.show(4)
            shell.type(":scaledobjects")
            shell.until("moodstream-consumer", _WORK_SECONDS)
            shell.show(3)
        shell.type(":q")
    studio.title("moodstream", "make demo &nbsp;&middot;&nbsp; make cluster-up")
    take.keep()


def _scale(take: Take, shell: Terminal) -> None:
    """A producer without a limit, until there are more consumers."""
    producer = "deployment/moodstream-producer"
    shell.clear()
    try:
        with take.scene(shell.page, "A burst: KEDA adds consumers while the lag grows.", 0.8):
            shell.type(f"kubectl set env {producer} MOODSTREAM_REPLAY_RATE=0")
            shell.type("kubectl get deployment moodstream-consumer --watch")
            shell.until("2/2", _UP_SECONDS)
            shell.show(5)
    finally:
        shell.press("\x03")
        shell.type(f"kubectl rollout undo {producer}")


def _reachable() -> bool:
    """Whether kubectl points at a cluster with the platform in it."""
    if shutil.which("kubectl") is None:
        return False
    asked = ["kubectl", "get", "inferenceservice", "sentiment", "-n", "moodstream"]
    return subprocess.run(asked, capture_output=True, check=False, timeout=30).returncode == 0


def _folder(stack: ExitStack) -> Path:
    """A place to work in: the project, and what one would have written beside it."""
    parent = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
    parent.chmod(0o755)  # PostgreSQL may run under another user.
    folder = parent / "moodstream"
    kept = folder / ".moodstream"
    kept.mkdir(parents=True)
    for path in _ROOT.iterdir():
        if path.name not in _ELSEWHERE:
            (folder / path.name).symlink_to(path)
    channels = kept / "channels.yaml"
    channels.touch(mode=0o600)
    channels.write_text(
        f"channels:\n  hook:\n    webhook: http://127.0.0.1:{_HOOK_PORT}/\n    secret: {_SECRET}\n"
    )
    (folder / "receiver.py").write_text(_RECEIVER)
    tutorial = (_ROOT / "docs" / "tutorial.md").read_text()
    found = re.search(r"<<'END'\n(text,label\n.*?)END\n", tutorial, re.DOTALL)
    if found is None:
        sys.exit("docs/tutorial.md writes no slang.csv any more, which the video shows")
    (folder / "slang.csv").write_text(found[1])
    _write_burst(folder / "burst.csv")
    return folder


def _write_burst(path: Path) -> None:
    with (_ROOT / "training" / "sample" / "posts.csv").open() as file:
        posts = [(row["text"], row["topic"]) for row in csv.DictReader(file)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "topic"])
        writer.writerows(
            (f"burst-{number}", *post)
            for number, post in enumerate(islice(cycle(posts), _BURST_POSTS))
        )


@contextmanager
def _studio(name: str) -> Iterator[_Studio]:
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None or shutil.which("ffmpeg") is None:
        sys.exit("no Chromium or no ffmpeg here: install Debian's packages chromium and ffmpeg")
    with ExitStack() as stack:
        folder = _folder(stack)
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        stack.callback(browser.close)
        scenes = stack.enter_context(ExitStack())
        yield _Studio(Take(_TAKES / name), browser, folder, scenes)


_ALL: Final[dict[str, Callable[[_Studio], None]]] = {"demo": demo, "cluster": cluster}


def main() -> None:
    """Records, and makes docs/demo.webm and docs/demo.webp of the takes that there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", choices=_ALL, help="record this take alone; of the other the last one is used"
    )
    only = parser.parse_args().only
    for name, record in _ALL.items():
        if name == only or (only is None and (name == "demo" or _reachable())):
            with _studio(name) as studio:
                record(studio)
    takes = [_TAKES / name for name in _ALL if (_TAKES / name / "shots.json").exists()]
    seconds = cut(takes, _VIDEO, _LOOP, _LOOP_SECONDS)
    sys.stdout.write(f"{_VIDEO}: {seconds:.0f} s, {_VIDEO.stat().st_size / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main()
