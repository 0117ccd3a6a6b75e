"""The predictor: one version of the sentiment model behind KServe's inference protocols, V1 and V2
over REST, V2 over gRPC.
"""

import asyncio
import logging
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, Final

import uvicorn
from grpc import StatusCode, aio  # type: ignore[import-untyped]  # no stubs
from kserve import ModelServer
from kserve.model_server import app
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    add_GRPCInferenceServiceServicer_to_server,
)
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # no stubs

from services.core import lifecycle
from services.core.errors import SettingsError
from services.core.health import HealthServer
from services.core.model import load as load_model
from services.core.settings import ServiceSettings, load
from services.predictor.model import ServedModel
from services.predictor.rest import MAX_BODY_BYTES, closing, routes
from services.predictor.settings import PredictorSettings, with_arguments

log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.05


def main() -> None:
    """Serves until SIGTERM."""
    lifecycle.run("predictor", _run)


def _run(service: ServiceSettings, stop: Event) -> None:
    settings = with_arguments(load(PredictorSettings), sys.argv[1:])
    if _holds_anything(settings.model_dir):
        _serve(service, settings, stop)
    else:
        _wait_without_model(service, settings, stop)


def _holds_anything(folder: Path) -> bool:
    """KServe mounts an empty folder into the pods of an InferenceService without a storageUri."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _wait_without_model(service: ServiceSettings, settings: PredictorSettings, stop: Event) -> None:
    """A cluster starts the predictor before there is a model: alive, so that it is not restarted,
    and not ready, so that nothing is sent to it. The pod with the model is a new one.
    """
    log.warning(
        "model.unset",
        extra={
            "folder": str(settings.model_dir),
            "fix": "set the alias champion in MLflow; the promoter then sets the storageUri of the "
            "InferenceService, and a pod with the model replaces this one",
        },
    )
    with HealthServer(
        service.bind,
        settings.http_port,
        alive=lambda: None,
        ready=lambda: f"no model was set yet: there is nothing in {settings.model_dir}",
    ):
        lifecycle.wait(stop)


def _serve(service: ServiceSettings, settings: PredictorSettings, stop: Event) -> None:
    if settings.leave_seconds >= service.drain_seconds:
        raise SettingsError(
            "MOODSTREAM_PREDICTOR_LEAVE_SECONDS: must be below MOODSTREAM_SERVICE_DRAIN_SECONDS, "
            "which it is part of"
        )
    model = ServedModel(settings.model_name, load_model(settings.model_dir, settings.model_version))
    _quieten_sdk()
    threadpool_limits(1)  # more threads slow the model down: its products are small and sparse
    app.router.routes[:0] = routes(model, stop.is_set)
    _Server(service, settings, stop).start([model])


def _quieten_sdk() -> None:
    """It logs several lines for each request, and would replace our log format if it found no
    handler.
    """
    logging.getLogger("kserve").addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", "ORJSONResponse is deprecated")  # its choice, not ours
    for name in ("kserve", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _Server(ModelServer):  # type: ignore[misc]  # kserve publishes no types
    """The SDK's server, listening where the settings say instead of on all addresses, and leaving
    in two steps: its callers find another one first.
    """

    def __init__(self, service: ServiceSettings, settings: PredictorSettings, stop: Event) -> None:
        super().__init__(
            http_port=settings.http_port,
            workers=1,
            enable_grpc=False,
            grace_period=service.drain_seconds - settings.leave_seconds,
        )
        self._bind = service.bind
        self._leave_seconds = settings.leave_seconds
        self._stop = stop
        self._inherited = [socket.socket(fileno=fd) for fd in settings.socket_fds]
        self._grpc_server = _GrpcServer(service, settings, self)

    def register_signal_handler(self) -> None:
        """Those of `lifecycle` stay: the SDK's stop at once."""

    async def _serve(self) -> None:
        config = self._rest_server.config
        config.host = self._bind
        config.app = closing(app, self._stop.is_set)
        self._rest_server._server = _RestServer(config, self._inherited)
        await asyncio.gather(*self.servers, self._grpc_server.start(1), self._leave())

    async def _leave(self) -> None:
        """Waits for the stop, and ends both servers when their callers have had time to go."""
        loop, rest = asyncio.get_running_loop(), self._rest_server._server
        while not (self._stop.is_set() and rest.started):
            await asyncio.sleep(_TICK_SECONDS)
        log.info("predictor.leaving")
        for listening in self._inherited:
            # Closed now, it would lose the connections that asyncio has accepted in this very tick.
            loop.remove_reader(listening)
        until = loop.time() + self._leave_seconds
        await asyncio.sleep(_TICK_SECONDS)
        while loop.time() < until and (rest.server_state.connections or not self._inherited):
            await asyncio.sleep(_TICK_SECONDS)
        rest.should_exit = True
        await self._grpc_server.stop()


class _RestServer(uvicorn.Server):
    """Listens on sockets of its parent's, if there are any, and leaves the signals alone."""

    def __init__(self, config: uvicorn.Config, inherited: list[socket.socket]) -> None:
        super().__init__(config)
        self._inherited = inherited

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Until `should_exit`."""
        await super().serve(self._inherited or sockets)


class _GrpcServer(GRPCServer):  # type: ignore[misc]  # kserve publishes no types
    """The SDK's gRPC server with an address, the limit of REST, and no line per call."""

    def __init__(
        self, service: ServiceSettings, settings: PredictorSettings, server: ModelServer
    ) -> None:
        super().__init__(
            settings.grpc_port,
            server.dataplane,
            server.model_repository_extension,
            {},
            server.grace_period,
        )
        self._address = f"{service.bind}:{settings.grpc_port}"

    async def start(self, max_workers: int) -> None:
        self._server = aio.server(
            interceptors=(ExceptionToStatusInterceptor(),),
            options=[("grpc.max_receive_message_length", MAX_BODY_BYTES)],
        )
        add_GRPCInferenceServiceServicer_to_server(
            _Servicer(self._data_plane, self._model_repository_extension), self._server
        )
        self._server.add_insecure_port(self._address)
        await self._server.start()
        await self._server.wait_for_termination()


class _Servicer(InferenceServicer):  # type: ignore[misc]  # kserve publishes no types
    """The SDK lets anyone unload the model; one process serves one version until it ends."""

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        await context.abort(StatusCode.UNIMPLEMENTED, "the model is fixed")

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        await context.abort(StatusCode.UNIMPLEMENTED, "the model is fixed")
