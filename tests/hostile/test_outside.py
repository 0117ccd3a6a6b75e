"""What comes from outside by other ways than a request: names that change what they stand for, and
model files that somebody else has made.
"""

import io
import json
import socket
import zipfile
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io

from services.core.model import ModelError, load_pipeline
from services.local.workloads import SAMPLE
from services.notifier.send import Sender
from services.notifier.settings import Channel
from training.candidates import BASELINE, CANDIDATES
from training.readers import read

PUBLIC = "93.184.216.34"
_BOMB_BYTES = 300_000_000


def test_a_name_that_is_private_by_the_time_it_is_used_gets_not_one_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        port = server.getsockname()[1]
        answers = iter([PUBLIC, "127.0.0.1"])

        def resolve(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
            assert host == "hooks.example.org"
            family, kind = socket.AF_INET, socket.SOCK_STREAM
            return [(family, kind, socket.IPPROTO_TCP, "", (next(answers), port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        # What somebody sees who looks before the message is sent.
        seen = socket.getaddrinfo("hooks.example.org", port)[0][4][0]
        channel = Channel.model_validate({"webhook": f"https://hooks.example.org:{port}/"})

        outcome = Sender(5, frozenset()).send(channel, "msg_1", {"data": {}})

        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(5)
            got = accepted.recv(1)

    assert ip_address(seen).is_global
    assert "private" in (outcome.problem or "")
    assert got == b""


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files in a model's archive."""
    path = tmp_path_factory.mktemp("model") / "model.skops"
    sample = read(SAMPLE)
    skops.io.dump(CANDIDATES[BASELINE]().fit(list(sample.texts), list(sample.labels)), path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def arrays(node: Any) -> Iterator[dict[str, Any]]:
    """The nodes of a schema that name a file of the archive."""
    if isinstance(node, dict):
        if "file" in node:
            yield node
        for value in node.values():
            yield from arrays(value)
    elif isinstance(node, list):
        for value in node:
            yield from arrays(value)


def test_nothing_of_a_model_file_is_written_anywhere(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    climbing = {"../evil": b"x", "../../evil": b"x", str(tmp_path / "evil"): b"x"}

    load_pipeline(packed(folder / "model.skops", members | climbing))

    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["model.skops"]


@pytest.mark.parametrize("named", ["/etc/passwd", "../../../../etc/passwd", "file:///etc/passwd"])
def test_a_model_file_reads_nothing_outside_itself(
    members: dict[str, bytes], tmp_path: Path, named: str
) -> None:
    schema = json.loads(members["schema.json"])
    next(arrays(schema))["file"] = named
    crafted = members | {"schema.json": json.dumps(schema).encode()}

    with pytest.raises(ModelError, match="cannot be loaded"):
        load_pipeline(packed(tmp_path / "model.skops", crafted))


def test_a_pickle_in_the_place_of_an_array_is_not_read(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    written = io.BytesIO()
    np.save(written, np.array([Evil()], dtype=object), allow_pickle=True)
    crafted = {
        name: written.getvalue() if name.endswith(".npy") else content
        for name, content in members.items()
    }

    with pytest.raises(ModelError, match="allow_pickle"):
        load_pipeline(packed(tmp_path / "model.skops", crafted))

    assert not ran.exists()


def test_a_schema_that_is_all_brackets_is_refused(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    crafted = members | {"schema.json": b"[" * 100_000}

    with pytest.raises(ModelError, match="cannot be loaded"):
        load_pipeline(packed(tmp_path / "model.skops", crafted))


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused_unread(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    crafted = members | {"schema.json": members["schema.json"] + b" " * _BOMB_BYTES}

    with pytest.raises(ModelError):
        load_pipeline(packed(tmp_path / "model.skops", crafted))
