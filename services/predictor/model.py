"""The served model: scores requests one after the other in a thread of its own, so that probes are
answered meanwhile, and is KServe's model for gRPC.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import kserve
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import deserialize_bytes_tensor

from services.core.contract import (
    INPUT_NAME,
    LABELS,
    PROBABILITIES_OUTPUT,
    Probabilities,
    labels_of,
)
from services.core.model import SentimentModel
from services.predictor import metrics, protocol
from services.predictor.protocol import BadRequestError, Request

_STUCK_SECONDS: Final = 60.0
"""A request that the model works on for longer will never end; the largest takes a few seconds."""


class ServedModel(kserve.Model):  # type: ignore[misc]  # kserve publishes no types
    """One version of the model under one name."""

    def __init__(
        self, name: str, model: SentimentModel, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(name)
        self._model = model
        self._clock = clock
        self._worker = ThreadPoolExecutor(1, "scoring")
        self._since: float | None = None
        self.version = model.version
        self.ready = True
        metrics.MODEL.info({"name": name, "version": self.version})

    async def score(self, texts: Sequence[str]) -> Probabilities:
        """Probabilities of checked texts."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._score, texts)

    def problem(self) -> str | None:
        """Why the process should be restarted, or None."""
        since = self._since
        if since is not None and self._clock() - since > _STUCK_SECONDS:
            return f"one request has been scored for more than {_STUCK_SECONDS:.0f} s"
        return None

    async def predict(self, payload: Any, headers: Any = None) -> kserve.InferResponse:
        """Answers one gRPC request."""
        try:
            request = _request_of(payload)
        except BadRequestError as exc:
            raise InvalidInput(str(exc)) from None
        probabilities = await self.score(request.texts)
        outputs = [
            kserve.InferOutput(tensor.name, list(tensor.shape), tensor.datatype, list(tensor.data))
            for tensor in protocol.tensors(request.outputs, probabilities)
        ]
        return kserve.InferResponse(
            request.id, self.name, outputs, self.version, use_binary_outputs=False
        )

    def metadata(self) -> dict[str, Any]:
        """What V2 says about the model."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": "sklearn_skops",
            "inputs": self.get_input_types(),
            "outputs": self.get_output_types(),
        }

    def get_input_types(self) -> list[dict[str, Any]]:
        """For V2 metadata."""
        return [{"name": INPUT_NAME, "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """For V2 metadata."""
        wide = {PROBABILITIES_OUTPUT: [-1, len(LABELS)]}
        return [
            {"name": name, "datatype": datatype, "shape": wide.get(name, [-1])}
            for name, datatype in protocol.OUTPUTS.items()
        ]

    def _score(self, texts: Sequence[str]) -> Probabilities:
        self._since = self._clock()
        try:
            with metrics.SCORING_SECONDS.time():
                probabilities = self._model.predict(texts)
        finally:
            self._since = None
        for label, count in Counter(labels_of(probabilities)).items():
            metrics.TEXTS.labels(label).inc(count)
        return probabilities


def _request_of(payload: kserve.InferRequest) -> Request:
    if len(payload.inputs) != 1:
        raise BadRequestError(f"expected exactly one input, {INPUT_NAME!r}")
    tensor = payload.inputs[0]
    rows = _rows_of(tensor)
    protocol.check_input(tensor.name, tensor.datatype, tensor.shape, len(rows))
    texts = [_decoded(row, value) for row, value in enumerate(rows)]
    wanted = [output.name for output in payload.request_outputs or ()]
    return Request(protocol.checked(texts), protocol.chosen(wanted), payload.id)


def _rows_of(tensor: kserve.InferInput) -> list[bytes]:
    raw = tensor._raw_data  # kserve has no accessor that tells raw contents from none
    if raw is None:
        return list(tensor.data or ())
    try:
        return list(deserialize_bytes_tensor(raw))
    except Exception as exc:  # it trusts the lengths inside, and raises whatever they lead to
        raise BadRequestError(f"raw contents are no BYTES tensor: {exc}") from None


def _decoded(row: int, value: Any) -> str:
    if not isinstance(value, bytes):
        raise BadRequestError(f"row {row}: expected bytes, got {type(value).__name__}")
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise BadRequestError(f"row {row}: not UTF-8: {exc}") from None
