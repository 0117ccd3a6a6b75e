"""The examiner: looks at versions before they are served, in the predictor's own surroundings.

A process of its own beside the promoter, because files that anybody may have registered are loaded
here: it holds no secret, and what they break is only it.

    POST /examine {"folder": "7"}  ->  services.core.gate.Examination as JSON
"""

import re
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock
from typing import Any, Final

import orjson
from pydantic import Field
from pydantic_settings import BaseSettings
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # no stubs
from uvicorn import Config, Server

from services.core import lifecycle
from services.core.evaluation import read
from services.core.examination import examine
from services.core.gate import Examination
from services.core.settings import ServiceSettings, group, load

_MAX_BODY_BYTES: Final = 10_000
_FOLDER: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")


class ExaminerSettings(BaseSettings):
    """Where the examiner listens, and what it looks at."""

    model_config = group("MOODSTREAM_EXAMINER_")

    bind: str = "127.0.0.1"
    """Address that it listens on: the promoter's pod is the only one that asks."""
    port: int = Field(default=9100, ge=1, le=65535)
    """TCP port."""
    models_dir: Path = Path("/models")
    """Folder that promoter and examiner share."""
    evaluation: Path | None = None
    """CSV with the columns text and label that versions are measured on. Unset: the project's
    own.
    """


def create_app(models_dir: Path, look: Callable[[Path], Examination]) -> Starlette:
    """The web application: one examination at a time, each in a thread of its own."""
    lock = Lock()

    def alone(folder: Path) -> Examination:
        with lock, threadpool_limits(1):
            return look(folder)

    async def examined(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                return _problem(413, f"the body is over the limit of {_MAX_BODY_BYTES} bytes")
        try:
            name = orjson.loads(bytes(body))["folder"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return _problem(400, 'expected {"folder": "the name of a folder of models"}')
        if not isinstance(name, str) or not _FOLDER.fullmatch(name):
            return _problem(400, "a folder's name is made of letters, digits, _ and -")
        folder = models_dir / name
        if folder.is_symlink() or not folder.is_dir():
            return _problem(404, f"there is no folder {name} in {models_dir}")
        found = await run_in_threadpool(alone, folder)
        return Response(orjson.dumps(found), media_type="application/json")

    async def fine(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[
            Route("/examine", examined, methods=["POST"]),
            Route("/livez", fine),
            Route("/readyz", fine),
        ]
    )


def main() -> None:
    """Runs until SIGTERM."""
    lifecycle.run("examiner", _run)


def _run(service: ServiceSettings, stop: Event) -> None:
    settings = load(ExaminerSettings)
    evaluation = read(settings.evaluation)
    server: Any = Server(
        Config(
            create_app(settings.models_dir, lambda folder: examine(folder, evaluation)),
            host=settings.bind,
            port=settings.port,
            log_config=None,
            access_log=False,
        )
    )
    server.run()


def _problem(status: int, reason: str) -> Response:
    return Response(orjson.dumps({"error": reason}), status, media_type="application/json")


if __name__ == "__main__":
    main()
