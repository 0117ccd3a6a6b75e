"""The examiner's HTTP face."""

from collections.abc import Iterator
from pathlib import Path
from socket import create_server
from threading import Event, Thread
from typing import Any

import pytest
import urllib3
import uvicorn

from services.core.gate import Check, Examination, Example
from services.predictor.examiner import create_app

FOUND = Examination((Check("artifact", True, "fine"),), 0.6, Example(("a",), ((0.1, 0.2, 0.7),)))


class Look:
    """Examines as it is told; counts who looks at once."""

    def __init__(self) -> None:
        self.go, self.began = Event(), Event()
        self.go.set()
        self.now = self.most = 0

    def __call__(self, folder: Path) -> Examination:
        self.now += 1
        self.most = max(self.most, self.now)
        self.began.set()
        assert self.go.wait(30)
        self.now -= 1
        return FOUND


@pytest.fixture
def look() -> Look:
    """One that answers at once."""
    return Look()


class Client:
    """Speaks HTTP to a real server."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._http = urllib3.PoolManager(maxsize=4, timeout=60, retries=3)

    def post(self, body: bytes) -> tuple[int, Any]:
        """Status and JSON."""
        answer = self._http.request("POST", f"{self._base}/examine", body=body)
        return answer.status, answer.json()

    def alive(self) -> bool:
        return self._http.request("GET", f"{self._base}/livez").status == 200


@pytest.fixture
def client(tmp_path: Path, look: Look) -> Iterator[Client]:
    """The application over one folder, 7."""
    (tmp_path / "7").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/etc")
    listener = create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(tmp_path, look), log_config=None))
    thread = Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield Client(listener.getsockname()[1])
    server.should_exit = True
    thread.join(30)
    listener.close()


def test_a_folder_is_examined(client: Client) -> None:
    assert client.post(b'{"folder": "7"}') == (
        200,
        {
            "checks": [{"name": "artifact", "passed": True, "detail": "fine"}],
            "macro_recall": 0.6,
            "example": {"texts": ["a"], "probabilities": [[0.1, 0.2, 0.7]]},
        },
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no JSON", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"folder": 7}', 400),
        (b'{"folder": ""}', 400),
        (b'{"folder": ".."}', 400),
        (b'{"folder": "../7"}', 400),
        (b'{"folder": "/etc"}', 400),
        (b'{"folder": "7\\n"}', 400),
        (b'{"folder": "8"}', 404),
        (b'{"folder": "file"}', 404),
        (b'{"folder": "link"}', 404),
        (b" " * 10_001, 413),
    ],
)
def test_anything_else_is_refused_with_a_sentence(client: Client, body: bytes, status: int) -> None:
    found, answer = client.post(body)

    assert found == status
    assert answer["error"]


def test_it_stays_alive_during_an_examination_and_makes_one_at_a_time(
    client: Client, look: Look
) -> None:
    look.go.clear()
    threads = [Thread(target=client.post, args=(b'{"folder": "7"}',)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert look.began.wait(30)

    alive = client.alive()
    look.go.set()
    for thread in threads:
        thread.join(30)

    assert alive
    assert look.most == 1
