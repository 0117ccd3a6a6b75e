"""The client of the examiner, against one that can be made to fail."""

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from services.core.errors import TemporaryError
from services.promoter.examiner import Examiner

FOUND = {
    "checks": [{"name": "artifact", "passed": True, "detail": "skops, trusted types"}],
    "macro_recall": 0.7,
    "example": {"texts": ["a"], "probabilities": [[0.1, 0.2, 0.7]]},
}


class FakeExaminer:
    """What it answers, and what it was asked."""

    live = 200
    status = 200
    answer = json.dumps(FOUND).encode()
    dies = False

    def __init__(self) -> None:
        self.asked: list[Any] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(fake.live)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fake.asked.append((self.path, json.loads(body)))
                if fake.dies:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(fake.status)
                self.send_header("Content-Length", str(len(fake.answer)))
                self.end_headers()
                self.wfile.write(fake.answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def fake() -> Iterator[FakeExaminer]:
    fake = FakeExaminer()
    thread = Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
    thread.join()


def test_an_examination_is_asked_for_by_folder_and_read(fake: FakeExaminer) -> None:
    examination = Examiner(f"{fake.url}/").examine("7")

    assert fake.asked == [("/examine", {"folder": "7"})]
    assert examination.macro_recall == 0.7
    assert [(check.name, check.passed) for check in examination.checks] == [("artifact", True)]
    assert examination.example is not None
    assert examination.example.probabilities == ((0.1, 0.2, 0.7),)


def test_an_examiner_that_is_away_is_waited_for(fake: FakeExaminer) -> None:
    examiner = Examiner("http://127.0.0.1:1")

    for _ in range(5):
        with pytest.raises(TemporaryError, match="does not answer"):
            examiner.examine("7")


def test_an_examiner_that_is_not_well_is_waited_for(fake: FakeExaminer) -> None:
    fake.live = 503

    with pytest.raises(TemporaryError, match="503"):
        Examiner(fake.url).examine("7")

    assert fake.asked == []


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [(500, b"out of disk", "500: out of disk"), (200, b"{}", "no examination")],
)
def test_an_answer_that_is_none_is_waited_for(
    fake: FakeExaminer, status: int, answer: bytes, words: str
) -> None:
    fake.status, fake.answer = status, answer

    with pytest.raises(TemporaryError, match=words):
        Examiner(fake.url).examine("7")


def test_a_version_that_ends_the_examiner_three_times_in_a_row_fails(fake: FakeExaminer) -> None:
    examiner = Examiner(fake.url)
    fake.dies = True

    for _ in range(2):
        with pytest.raises(TemporaryError, match="broke off"):
            examiner.examine("7")
    with pytest.raises(TemporaryError, match="1 of 3"):
        examiner.examine("8")
    examination = examiner.examine("7")

    (check,) = examination.checks
    assert (check.name, check.passed) == ("artifact", False)
    assert "does not survive" in check.detail
    assert examination.macro_recall is None


def test_one_that_succeeds_in_between_starts_the_count_anew(fake: FakeExaminer) -> None:
    examiner = Examiner(fake.url)

    for _ in range(3):
        fake.dies = True
        for _ in range(2):
            with pytest.raises(TemporaryError):
                examiner.examine("7")
        fake.dies = False
        assert examiner.examine("7").checks[0].passed
