"""The dashboard: one live page, and the JSON it is made from."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from threading import Event, Lock
from typing import Final

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import AwareDatetime, ValidationError

from services.core import lifecycle
from services.core.errors import TemporaryError
from services.core.settings import PostgresSettings, ServiceSettings, load
from services.dashboard import access, corrections
from services.dashboard.corrections import Correction
from services.dashboard.queries import Models, Promotion, Snapshot, Warehouse
from services.dashboard.settings import DashboardSettings

_STATIC: Final = Path(__file__).parent / "static"
_REFRESH_SECONDS: Final = 1.0
_STREAMS_END_SECONDS: Final = 2
"""How long a stop waits for open pages, which are told to end."""

_MOST_CORRECTION_BYTES: Final = 8_192
_REFUSED: Final = {corrections.UnknownPostsError: 404, corrections.ForbiddenError: 403}

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class DriftGauges(Collector):
    """The newest day's drift, as of the last snapshot; nothing when there never was one."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Prometheus' view of the table `drift`."""
        try:
            drift = self._warehouse.snapshot().drift
        except TemporaryError:
            drift = []
        psi = GaugeMetricFamily(
            "moodstream_drift_psi",
            "Population stability index of the newest day against those before it.",
            labels=["measure"],
        )
        mean = GaugeMetricFamily(
            "moodstream_drift_mean", "Mean of the newest day's posts.", labels=["measure"]
        )
        for found in drift:
            mean.add_metric([found.measure], found.mean)
            if found.psi is not None:
                psi.add_metric([found.measure], found.psi)
        yield psi
        yield mean

    def describe(self) -> list[GaugeMetricFamily]:
        """Without names the registry need not ask the warehouse at the start."""
        return []


def create_app(
    warehouse: Warehouse,
    correct: Callable[[Correction], None],
    token: str | None,
    stopping: Callable[[], bool],
) -> FastAPI:
    """The web application over one warehouse.

    `correct` stores a correction; `token` is what one must carry, None: only from this machine.
    Open streams end once `stopping` says so.
    """
    app = FastAPI(title="moodstream", docs_url=None, redoc_url=None)
    drift = CollectorRegistry()
    drift.register(DriftGauges(warehouse))
    one_at_a_time = Lock()
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

    @app.get("/api/models")
    def models() -> Models:
        """Champion, challenger, and how they compare on the posts that both scored."""
        return warehouse.snapshot().models

    @app.get("/api/promotions")
    def promotions(since: AwareDatetime | None = None) -> list[Promotion]:
        """What happened to model versions since a moment, oldest first; the newest 1,000."""
        return warehouse.promotions(since)

    @app.get("/api/corrections")
    def who_may_correct(request: Request) -> dict[str, str]:
        """Whether this client may correct labels: open, token or closed."""
        client = request.client.host if request.client else None
        return {"access": access.access(client, request.headers, token)}

    @app.post("/api/corrections", status_code=201)
    async def store_correction(request: Request) -> Response:
        """Stores what a person says a post's label is: {source, id, label, by}."""
        client = request.client.host if request.client else None
        if refused := access.refusal(client, request.headers, token):
            return _problem(refused.status, refused.problem)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_CORRECTION_BYTES:
                return _problem(413, f"a correction has at most {_MOST_CORRECTION_BYTES} bytes")
        try:
            correction = Correction.model_validate_json(bytes(body))
        except ValidationError as exc:
            return _problem(422, corrections.reasons(exc))

        def store() -> None:
            with one_at_a_time:
                correct(correction)

        try:
            await run_in_threadpool(store)
        except (corrections.UnknownPostsError, corrections.ForbiddenError) as exc:
            return _problem(_REFUSED[type(exc)], str(exc))
        return JSONResponse(correction.model_dump(), status_code=201)

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
        found = generate_latest() + generate_latest(drift)
        return Response(found, media_type=CONTENT_TYPE_LATEST)

    return app


def _problem(status: int, problem: str) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"problem": problem}, status_code=status, headers=headers)


def main() -> None:
    """Runs until SIGTERM."""
    lifecycle.run("dashboard", _run)


def _run(service: ServiceSettings, stop: Event) -> None:
    postgres, token = load(PostgresSettings), load(DashboardSettings).corrections_token
    app = create_app(
        Warehouse(postgres),
        lambda correction: corrections.store(postgres, [correction]),
        token.get_secret_value() if token else None,
        lambda: server.should_exit,
    )
    config = uvicorn.Config(
        app,
        host=service.bind,
        port=service.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_STREAMS_END_SECONDS,
    )
    server = uvicorn.Server(config)
    server.run()
