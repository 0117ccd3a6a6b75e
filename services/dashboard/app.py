"""The dashboard: one live page, and the JSON it is made from."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from threading import Event
from typing import Final

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.core import lifecycle
from services.core.errors import TemporaryError
from services.core.settings import PostgresSettings, ServiceSettings, load
from services.dashboard.queries import Snapshot, Warehouse

_STATIC: Final = Path(__file__).parent / "static"
_REFRESH_SECONDS: Final = 1.0
_STREAMS_END_SECONDS: Final = 2
"""How long a stop waits for open pages, which are told to end."""

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_app(warehouse: Warehouse, stopping: Callable[[], bool]) -> FastAPI:
    """The web application over one warehouse; open streams end once `stopping` says so."""
    app = FastAPI(title="moodstream", docs_url=None, redoc_url=None)
    app.mount("/static", StaticFiles(directory=_STATIC))

    @app.middleware("http")
    async def protect(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(TemporaryError)
    async def away(request: Request, exc: Exception) -> JSONResponse:
        return JSONResponse({"problem": str(exc)}, status_code=503)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_STATIC / "index.html")

    @app.get("/api/snapshot")
    def snapshot() -> Snapshot:
        """Everything on the page, as of one moment."""
        return warehouse.snapshot()

    @app.get("/api/live", response_class=EventSourceResponse)
    async def live() -> AsyncIterator[ServerSentEvent]:
        """A stream of snapshots, one a second; event `problem` while the database is away."""
        while not stopping():
            try:
                taken = await run_in_threadpool(warehouse.snapshot)
            except TemporaryError as exc:
                yield ServerSentEvent(event="problem", data={"problem": str(exc)})
            else:
                yield ServerSentEvent(event="snapshot", data=taken)
            await asyncio.sleep(_REFRESH_SECONDS)

    @app.get("/livez", include_in_schema=False)
    async def livez() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    def readyz() -> PlainTextResponse:
        try:
            problem = warehouse.snapshot().problem
        except TemporaryError as exc:
            problem = str(exc)
        return PlainTextResponse(f"{problem or 'ok'}\n", status_code=503 if problem else 200)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


def main() -> None:
    """Runs until SIGTERM."""
    lifecycle.run("dashboard", _run)


def _run(service: ServiceSettings, stop: Event) -> None:
    warehouse = Warehouse(load(PostgresSettings))
    config = uvicorn.Config(
        create_app(warehouse, lambda: server.should_exit),
        host=service.bind,
        port=service.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_STREAMS_END_SECONDS,
    )
    server = uvicorn.Server(config)
    server.run()
