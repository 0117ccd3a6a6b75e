"""What the API says when it refuses or fails, as its document tells it."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi.responses import JSONResponse
from pydantic import BaseModel

_RETRY_SECONDS: Final = 5
_MEANINGS: Final = {
    401: "A token is needed, or another one.",
    403: "Not from here, or not by this client.",
    404: "There is no such thing.",
    413: "The body is over the limit.",
    415: "The body is no JSON or YAML.",
    422: "What was sent does not fit.",
    503: "Not now: something is away, or too much is asked at once.",
}
_HEADERS: Final[Mapping[int, Mapping[str, str]]] = {
    401: {"WWW-Authenticate": "Bearer"},
    503: {"Retry-After": str(_RETRY_SECONDS)},
}


class Problem(BaseModel):
    """Why there is no better answer."""

    problem: str


def answer(status: int, problem: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The problem as a response."""
    content = Problem(problem=problem).model_dump()
    return JSONResponse(content, status, {**_HEADERS.get(status, {}), **(headers or {})})


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same for the document, as FastAPI's `responses`."""
    return {status: {"model": Problem, "description": _MEANINGS[status]} for status in statuses}
