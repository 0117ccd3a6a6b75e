"""The REST addresses that are ours rather than the SDK's: inference, probes, and a plain 404 for
what must not be open.

Inference is not left to the SDK, because its path costs as much as a fast model (three walks over
every number of an answer) and answers some bad requests with 500 or 422.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.predictor import metrics, protocol
from services.predictor.model import ServedModel
from services.predictor.protocol import BadRequestError

log = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
_BINARY_HEADER: Final = "inference-header-content-length"

Endpoint = Callable[[Request], Awaitable[Response]]


class _BodyTooLargeError(Exception):
    """The body is over the limit."""


def routes(model: ServedModel, leaving: Callable[[], bool]) -> list[BaseRoute]:
    """To be matched before the SDK's own."""

    async def v1(body: bytes) -> bytes:
        request = protocol.parse_v1(body)
        return protocol.answer_v1(await model.score(request.texts), model.name, model.version)

    async def v2(body: bytes) -> bytes:
        request = protocol.parse_v2(body)
        probabilities = await model.score(request.texts)
        return protocol.answer_v2(request, probabilities, model.name, model.version)

    async def alive(_: Request) -> Response:
        problem = model.problem()
        return PlainTextResponse(f"{problem or 'ok'}\n", 503 if problem else 200)

    async def ready(_: Request) -> Response:
        # Nothing listens before the model is loaded.
        gone = leaving()
        return PlainTextResponse("leaving\n" if gone else "ok\n", 503 if gone else 200)

    async def metadata(request: Request) -> Response:
        name = request.path_params["name"]
        if name != model.name:
            return _error(404, f"no model {name!r} here, only {model.name!r}")
        return Response(orjson.dumps(model.metadata()), media_type="application/json")

    async def absent(_: Request) -> Response:
        return _error(404, "there is nothing to post to at this address")

    return [
        Route("/livez", alive),
        Route("/readyz", ready),
        # The SDK's does not say which version it is.
        Route("/v2/models/{name}", metadata),
        Route("/v1/models/{name}:predict", _inference(model, v1), methods=["POST"]),
        Route("/v2/models/{name}/infer", _inference(model, v2), methods=["POST"]),
        # The SDK lets anyone unload the model, and reads bodies of any size.
        Route("/{path:path}", absent, methods=["POST"]),
    ]


def closing(app: ASGIApp, leaving: Callable[[], bool]) -> ASGIApp:
    """The application, each of whose answers is the last on its connection while the process is
    leaving: a client's next request then opens one to a process that stays, instead of meeting a
    connection that ends under it.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and leaving():
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await app(scope, receive, answer)

    return wrapped


def _inference(model: ServedModel, answer: Callable[[bytes], Awaitable[bytes]]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        name = request.path_params["name"]
        if name != model.name:
            return _error(404, f"no model {name!r} here, only {model.name!r}")
        if _BINARY_HEADER in request.headers:
            return _error(400, "binary tensor data is not supported: send the data as JSON")
        try:
            content = await answer(await _body(request))
        except BadRequestError as exc:
            return _error(400, str(exc))
        except _BodyTooLargeError:
            return _error(413, f"the body is over the limit of {MAX_BODY_BYTES} bytes")
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:  # one request failed; the next may not
            log.exception("request.failed")
            return _error(500, "the model failed on this request")
        return Response(content, media_type="application/json")

    return endpoint


async def _body(request: Request) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise _BodyTooLargeError
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _BodyTooLargeError
    return bytes(body)


def _error(status: int, reason: str) -> Response:
    metrics.REJECTED.labels(str(status)).inc()
    return Response(orjson.dumps({"error": reason}), status, media_type="application/json")
