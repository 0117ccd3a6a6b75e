"""The dashboard: one live page, and the JSON it is made from."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from threading import Event, Lock
from typing import Annotated, Final

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import ValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.core import lifecycle
from services.core.errors import MoodstreamError, TemporaryError
from services.core.postgres import NotAllowedError
from services.core.rules import RulesError
from services.core.settings import InferenceSettings, PostgresSettings, ServiceSettings, load
from services.dashboard import corrections, explain, exports, history, problems, rules
from services.dashboard.access import COOKIE, AccessError, Guard, Visitor, editor, viewer, visitor
from services.dashboard.connection import connections
from services.dashboard.corrections import Correction
from services.dashboard.queries import Models, Promotion, Snapshot, Warehouse
from services.dashboard.settings import DashboardSettings

_STATIC: Final = Path(__file__).parent / "static"
_REFRESH_SECONDS: Final = 1.0
_STREAMS_END_SECONDS: Final = 2
"""How long a stop waits for open pages, which are told to end."""

_MOST_CORRECTION_BYTES: Final = 8_192
_COMPRESSED_FROM_BYTES: Final = 1_000
_COOKIE_SECONDS: Final = 30 * 24 * 3600
_STATUSES: Final[dict[type[MoodstreamError], int]] = {
    TemporaryError: 503,
    history.BadRequestError: 422,
    corrections.UnknownPostsError: 404,
    corrections.ForbiddenError: 403,
    rules.InvalidRuleError: 422,
    rules.TooLargeError: 413,
    RulesError: 422,
    rules.NoSuchError: 404,
    NotAllowedError: 403,
}

_LENGTHS: Final = {b"content-length", b"transfer-encoding"}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class _Headers:
    """Adds the headers to every response, and refuses a request of two lengths, which a proxy may
    have ended elsewhere. Not Starlette's decorator for that: it ends a response that broke off as
    if it were whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        app = self._app
        if {name for name, _ in scope.get("headers", ())} >= _LENGTHS:
            app = problems.answer(400, "a body has one length", {"Connection": "close"})
        await app(scope, receive, with_headers)


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
    postgres: PostgresSettings,
    guard: Guard,
    routers: Sequence[APIRouter],
    stopping: Callable[[], bool],
) -> FastAPI:
    """The web application over one warehouse, with further routers.

    Open streams end once `stopping` says so.
    """
    app = FastAPI(
        title="moodstream", openapi_url="/api/openapi.json", docs_url=None, redoc_url=None
    )
    app.state.guard = guard
    warehouse = Warehouse(postgres)
    drift = CollectorRegistry()
    drift.register(DriftGauges(warehouse))
    app.mount("/static", StaticFiles(directory=_STATIC))
    app.add_middleware(GZipMiddleware, minimum_size=_COMPRESSED_FROM_BYTES)
    app.add_middleware(_Headers)

    @app.exception_handler(MoodstreamError)
    async def failed(request: Request, exc: MoodstreamError) -> JSONResponse:
        if isinstance(exc, AccessError):
            return problems.answer(exc.status, str(exc))
        status = next((_STATUSES[kind] for kind in type(exc).__mro__ if kind in _STATUSES), 500)
        return problems.answer(status, str(exc))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, exc: RequestValidationError) -> JSONResponse:
        return problems.answer(
            422, "; ".join(f"{error['loc'][-1]}: {error['msg']}" for error in exc.errors())
        )

    @app.exception_handler(HTTPException)
    async def refused(request: Request, exc: HTTPException) -> JSONResponse:
        return problems.answer(exc.status_code, exc.detail, exc.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, exc: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody reads it

    @app.get("/", include_in_schema=False)
    async def page(request: Request, token: str | None = None) -> Response:
        """The page. A token in its address becomes a cookie, or it would be copied with it."""
        if token is None or not token.isascii():
            return FileResponse(_STATIC / "index.html")
        answer = RedirectResponse(str(request.url.remove_query_params("token")), status_code=303)
        secure = request.url.scheme == "https"
        answer.set_cookie(
            COOKIE, token, max_age=_COOKIE_SECONDS, httponly=True, samesite="strict", secure=secure
        )
        return answer

    @app.get("/api/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        """The API for people."""
        return FileResponse(_STATIC / "api.html")

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

    @app.get("/api/me")
    def me(who: Annotated[Visitor, Depends(visitor)]) -> Visitor:
        """What this client may do: its role (viewer, editor or none) and how it comes to write."""
        return who

    for router in (_live(warehouse, stopping), _corrections(postgres), *routers):
        app.include_router(router, responses=problems.documented(401, 403, 422, 503))
    return app


def _live(warehouse: Warehouse, stopping: Callable[[], bool]) -> APIRouter:
    """What changes every second."""
    api = APIRouter(prefix="/api", dependencies=[Depends(viewer)], tags=["live"])

    @api.get("/snapshot")
    def snapshot() -> Snapshot:
        """Everything on the page, as of one moment."""
        return warehouse.snapshot()

    @api.get("/live", response_class=EventSourceResponse)
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

    @api.get("/models")
    def models() -> Models:
        """Champion, challenger, and how they compare on the posts that both scored."""
        return warehouse.snapshot().models

    @api.get("/promotions")
    def promotions(since: history.Moment | None = None) -> list[Promotion]:
        """What happened to model versions since a moment, oldest first; the newest 1,000."""
        return warehouse.promotions(since)

    return api


def _corrections(postgres: PostgresSettings) -> APIRouter:
    """What people say a post's label is."""
    api = APIRouter(prefix="/api", tags=["corrections"])
    one_at_a_time = Lock()

    @api.post("/corrections", status_code=201, responses=problems.documented(404, 413, 415))
    async def correct(request: Request, who: Annotated[Visitor, Depends(editor)]) -> Response:
        """Stores what a person says a post's label is: {source, id, label, by}. Somebody whom a
        proxy has signed in corrects under that name.
        """
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_CORRECTION_BYTES:
                raise rules.TooLargeError(
                    f"a correction has at most {_MOST_CORRECTION_BYTES} bytes"
                )
        try:
            correction = Correction.model_validate_json(bytes(body))
        except ValidationError as exc:
            return problems.answer(422, corrections.reasons(exc))
        if who.user is not None:
            correction = correction.model_copy(update={"by": who.user})

        def store() -> None:
            with one_at_a_time:
                corrections.store(postgres, [correction])

        await run_in_threadpool(store)
        return JSONResponse(correction.model_dump(), status_code=201)

    return api


def main() -> None:
    """Runs until SIGTERM."""
    lifecycle.run("dashboard", _run)


def _run(service: ServiceSettings, stop: Event) -> None:
    postgres, dashboard = load(PostgresSettings), load(DashboardSettings)
    reader = history.Reader(postgres)
    routers = [
        history.router(reader),
        rules.router(postgres, reader),
        explain.router(explain.Explainer(load(InferenceSettings), reader)),
        exports.router(postgres),
    ]
    app = create_app(postgres, Guard(dashboard), routers, lambda: server.should_exit)
    config = uvicorn.Config(
        app,
        host=service.bind,
        port=service.port,
        http=connections(dashboard.client_seconds),
        log_config=None,
        access_log=False,
        # Who asks is the guard's to say, and it looks at the peer.
        proxy_headers=False,
        timeout_graceful_shutdown=_STREAMS_END_SECONDS,
    )
    server = uvicorn.Server(config)
    server.run()
