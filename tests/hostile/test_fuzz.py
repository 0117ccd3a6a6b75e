"""Both HTTP APIs with real parts behind them, asked what schemathesis makes of their schemas: no
answer is a 5xx, each is what the schema says, or an error in JSON with its reason.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.core.contract import LABELS, MODEL_NAME
from services.core.rules import Rule
from services.dashboard.corrections import Correction
from services.predictor.protocol import OUTPUTS
from tests.hostile.asking import ask, connected, documented, operations
from tests.integration.conftest import PostgresHandle
from tests.integration.predictor import Predictor
from tests.integration.test_dashboard import serving, store

_SECONDS = 20
"""No answer takes longer."""
BOUNDED = settings(derandomize=True, max_examples=80)
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")


@pytest.fixture(scope="module")
def dashboard(warehouse: PostgresHandle, predictor: Predictor) -> Iterator[str]:
    """Address of a dashboard that serves on this machine, so that all of it may be asked."""
    store(warehouse, ["good morning", "bad trains"])
    with serving(warehouse, INFERENCE_URL=predictor.url) as url:
        yield url


BODIES = {
    ("/api/corrections", "post"): Correction,
    ("/api/rules/{name}", "put"): Rule,
    ("/api/rules/preview", "post"): Rule,
}
"""Bodies that the dashboard reads itself, so that its document does not know them."""


def with_bodies(document: dict[str, Any]) -> dict[str, Any]:
    """The document with these too."""
    for (path, method), model in BODIES.items():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        document["components"]["schemas"].update(schema.pop("$defs", {}))
        content = {"application/json": {"schema": schema}}
        document["paths"][path][method]["requestBody"] = {"required": True, "content": content}
    return document


DASHBOARD = schemathesis.openapi.from_dict(with_bodies(documented()))


def cases(schema: Any, method: str, path: str) -> st.SearchStrategy[Case]:
    """What fits the schema, and what does not."""
    operation = schema[path][method]
    return st.one_of(
        operation.as_strategy(generation_mode=mode)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    )


def check(case: Case, response: Response) -> None:
    """Fails for a 5xx, for an answer whose status or content is not what the schema says, and for
    an error that gives no reason.
    """
    assert response.status_code < 500, (case.as_curl_command(), response.text)
    checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
    case.validate_response(response, checks=checks)
    if response.status_code >= 400:
        said = response.json()
        assert said.get("problem") or said["error"]


@pytest.mark.parametrize(("method", "path"), operations())
def test_whatever_the_dashboard_is_asked_it_answers_by_its_schema_or_says_why(
    dashboard: str, method: str, path: str
) -> None:
    own = {"Origin": dashboard, "Content-Type": "application/json"}

    @given(case=cases(DASHBOARD, method, path))
    @BOUNDED
    def answered(case: Case) -> None:
        body = case.body
        if (
            path == "/api/rules/{name}"
            and isinstance(body, dict)
            and NAME.match(str(body.get("name")))
        ):
            case.path_parameters = {"name": str(body["name"])}
        check(case, case.call(base_url=dashboard, headers=own, timeout=_SECONDS))

    answered()


V1 = {
    "type": "object",
    "required": ["instances"],
    "properties": {
        "instances": {
            "type": "array",
            "minItems": 1,
            "maxItems": 20,
            "items": {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "object",
                        "required": ["text"],
                        "properties": {"text": {"type": "string"}},
                    },
                ]
            },
        }
    },
}
V1_ANSWER = {
    "type": "object",
    "required": ["predictions", "model_name", "model_version"],
    "properties": {
        "predictions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["label", "score", "probabilities"],
                "properties": {
                    "label": {"enum": list(LABELS)},
                    "score": {"type": "number", "minimum": -1, "maximum": 1},
                },
            },
        }
    },
}
V2 = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape", "data"],
                "properties": {
                    "name": {"const": "text"},
                    "datatype": {"const": "BYTES"},
                    "shape": {"const": [1]},
                    "data": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 1,
                        "items": {"type": "string"},
                    },
                },
            },
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"enum": list(OUTPUTS)}},
            },
        },
    },
}
V2_ANSWER = {
    "type": "object",
    "required": ["model_name", "model_version", "id", "outputs"],
    "properties": {
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype", "data"],
                "properties": {"name": {"enum": list(OUTPUTS)}},
            },
        }
    },
}


ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "minLength": 1}},
}


def predictor_schema() -> Any:
    """The two protocols, as far as they are served; KServe's own document does not know them."""
    paths = {
        path: {
            "post": {
                "parameters": [
                    {
                        "name": "name",
                        "in": "path",
                        "required": True,
                        "schema": {"enum": [MODEL_NAME]},
                    }
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": body}},
                },
                "responses": {
                    status: {"description": "", "content": {"application/json": {"schema": said}}}
                    for status, said in (("200", answer), ("400", ERROR), ("404", ERROR))
                },
            }
        }
        for path, body, answer in (
            ("/v1/models/{name}:predict", V1, V1_ANSWER),
            ("/v2/models/{name}/infer", V2, V2_ANSWER),
        )
    }
    info = {"title": "predictor", "version": "1"}
    return schemathesis.openapi.from_dict({"openapi": "3.1.0", "info": info, "paths": paths})


@pytest.mark.parametrize("path", ["/v1/models/{name}:predict", "/v2/models/{name}/infer"])
def test_whatever_the_predictor_is_asked_it_answers_by_its_schema_or_says_why(
    predictor: Predictor, path: str
) -> None:
    @given(case=cases(predictor_schema(), "POST", path))
    @BOUNDED
    def answered(case: Case) -> None:
        check(case, case.call(base_url=predictor.url, timeout=_SECONDS))

    answered()


def test_slow_clients_keep_nobody_from_the_predictor(predictor: Predictor) -> None:
    head = b"POST /v2/models/sentiment/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    with ExitStack() as stack:
        for number in range(300):
            client = stack.enter_context(connected(predictor.url))
            client.sendall(head[: 20 + number])

        answer = ask(
            predictor.url, "POST", "/v1/models/sentiment:predict", {}, b'{"instances":["a"]}'
        )

    assert answer.status == 200
