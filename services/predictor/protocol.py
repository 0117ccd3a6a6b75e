"""Requests and answers of both inference protocols as plain data: what is asked is checked here,
and what is answered is shaped here. Knows no server.

V1 is {"instances": [...]}; V2 is the Open Inference Protocol:
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import orjson

from services.core.contract import (
    INPUT_NAME,
    LABEL_OUTPUT,
    LABELS,
    MAX_TEXT_CHARS,
    MAX_TEXTS_PER_REQUEST,
    PROBABILITIES_OUTPUT,
    SCORE_OUTPUT,
    Probabilities,
    labels_of,
    scores_of,
)
from services.core.errors import MoodstreamError

OUTPUTS: Final = {LABEL_OUTPUT: "BYTES", PROBABILITIES_OUTPUT: "FP32", SCORE_OUTPUT: "FP32"}
"""V2 outputs and their datatypes, in the order in which they are answered."""


class BadRequestError(MoodstreamError):
    """The request is at fault; the message says where and what."""


@dataclass(frozen=True)
class Request:
    """Checked texts, and what is wanted about them."""

    texts: Sequence[str]
    outputs: Sequence[str] = tuple(OUTPUTS)
    id: str | None = None


@dataclass(frozen=True)
class Tensor:
    """One V2 output."""

    name: str
    shape: Sequence[int]
    data: list[str] | npt.NDArray[np.float32]
    """Flat, in row-major order."""

    @property
    def datatype(self) -> str:
        """As V2 spells it."""
        return OUTPUTS[self.name]


def parse_v1(body: bytes) -> Request:
    """The request in a V1 body, or BadRequestError."""
    instances = _object(body).get("instances")
    if not isinstance(instances, list):
        raise BadRequestError('expected {"instances": ["a text", ...]}')
    return Request(checked([_text_of(instance) for instance in instances]))


def parse_v2(body: bytes) -> Request:
    """The request in a V2 body, or BadRequestError."""
    content = _object(body)
    tensor = _only(content.get("inputs"))
    data = tensor.get("data")
    if not isinstance(data, list):
        raise BadRequestError(
            f"input {INPUT_NAME!r} has no list as its data; binary tensor data is not supported"
        )
    check_input(tensor.get("name"), tensor.get("datatype"), tensor.get("shape"), len(data))
    request_id = content.get("id")
    if not isinstance(request_id, str | None):
        raise BadRequestError("id must be a string")
    return Request(checked(data), _wanted(content.get("outputs")), request_id)


def check_input(name: Any, datatype: Any, shape: Any, rows: int) -> None:
    """Raises BadRequestError unless the tensor is what the model takes."""
    if name != INPUT_NAME or datatype != "BYTES":
        raise BadRequestError(
            f"expected one input {INPUT_NAME!r} of datatype BYTES, "
            f"got {str(name)[:100]!r} of {str(datatype)[:100]!r}"
        )
    if shape != [rows]:
        raise BadRequestError(
            f"input {INPUT_NAME!r} holds {rows} texts, so its shape must be [{rows}], "
            f"not {str(shape)[:100]}"
        )


def checked(rows: list[Any]) -> list[str]:
    """The rows if each is a text that the model scores, else BadRequestError naming the first that
    is not.
    """
    if not rows:
        raise BadRequestError("no texts in the request")
    if len(rows) > MAX_TEXTS_PER_REQUEST:
        raise BadRequestError(
            f"{len(rows)} texts in the request, the limit is {MAX_TEXTS_PER_REQUEST}: send several"
        )
    for row, text in enumerate(rows):
        if type(text) is not str:
            raise BadRequestError(f"row {row}: expected a string, got {type(text).__name__}")
        if len(text) > MAX_TEXT_CHARS:
            raise BadRequestError(
                f"row {row}: {len(text)} characters, the limit is {MAX_TEXT_CHARS}"
            )
    return rows


def chosen(names: Sequence[str]) -> Sequence[str]:
    """The wanted outputs, all of them when none is named, or BadRequestError."""
    unknown = [name for name in names if name not in OUTPUTS]
    if unknown:
        raise BadRequestError(
            f"no output {unknown[0][:100]!r}; there are {', '.join(OUTPUTS)}",
        )
    return tuple(names) or tuple(OUTPUTS)


def tensors(names: Sequence[str], probabilities: Probabilities) -> list[Tensor]:
    """The named outputs."""
    rows = len(probabilities)
    return [
        Tensor(name, [rows, len(LABELS)], probabilities.ravel())
        if name == PROBABILITIES_OUTPUT
        else Tensor(name, [rows], scores_of(probabilities))
        if name == SCORE_OUTPUT
        else Tensor(name, [rows], labels_of(probabilities))
        for name in names
    ]


def answer_v1(probabilities: Probabilities, name: str, version: str) -> bytes:
    """The V1 body."""
    predictions = [
        {"label": label, "score": score, "probabilities": dict(zip(LABELS, row, strict=True))}
        for label, score, row in zip(
            labels_of(probabilities),
            scores_of(probabilities).tolist(),
            probabilities.tolist(),
            strict=True,
        )
    ]
    return orjson.dumps({"predictions": predictions, "model_name": name, "model_version": version})


def answer_v2(request: Request, probabilities: Probabilities, name: str, version: str) -> bytes:
    """The V2 body. Numbers are written from the arrays, which is what makes it cheap."""
    outputs = [
        {"name": t.name, "shape": t.shape, "datatype": t.datatype, "data": t.data}
        for t in tensors(request.outputs, probabilities)
    ]
    answer = {
        "model_name": name,
        "model_version": version,
        "id": request.id or str(uuid4()),
        "outputs": outputs,
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequestError(f"the body is not JSON: {exc}") from None
    if not isinstance(content, dict):
        raise BadRequestError("the body is not a JSON object")
    return content


def _text_of(instance: Any) -> Any:
    return instance.get(INPUT_NAME) if isinstance(instance, dict) else instance


def _only(inputs: Any) -> dict[str, Any]:
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadRequestError(
            f'expected "inputs" with exactly one tensor, {INPUT_NAME!r} of datatype BYTES'
        )
    return inputs[0]


def _wanted(outputs: Any) -> Sequence[str]:
    if outputs is None:
        return tuple(OUTPUTS)
    if not isinstance(outputs, list) or not all(
        isinstance(output, dict) and isinstance(output.get("name"), str) for output in outputs
    ):
        raise BadRequestError('expected "outputs" to be a list of {"name": ...}')
    return chosen([output["name"] for output in outputs])
