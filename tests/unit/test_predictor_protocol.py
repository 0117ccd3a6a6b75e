"""Both inference protocols as data: hostile bodies are refused with a reason, answers keep the
contract.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.predictor.protocol import (
    BadRequestError,
    Request,
    answer_v1,
    answer_v2,
    parse_v1,
    parse_v2,
)
from services.predictor.settings import PredictorSettings, with_arguments

PROBABILITIES = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]], dtype=np.float32)


def v2(data: Any, **changes: Any) -> bytes:
    tensor = {"name": "text", "shape": [len(data)], "datatype": "BYTES", "data": data}
    top = {key: changes.pop(key) for key in ("id", "outputs") if key in changes}
    return json.dumps({"inputs": [tensor | changes], **top}).encode()


def test_v1_takes_texts_and_objects_with_a_text() -> None:
    request = parse_v1(b'{"instances": ["a", {"text": "b", "id": 7}]}')

    assert request.texts == ["a", "b"]


def test_v2_takes_texts_an_id_and_the_wanted_outputs_in_their_order() -> None:
    request = parse_v2(v2(["a", ""], id="7", outputs=[{"name": "score"}, {"name": "label"}]))

    assert request == Request(["a", ""], ("score", "label"), "7")


def test_v2_answers_every_output_when_none_is_named() -> None:
    assert parse_v2(v2(["a"])).outputs == ("label", "probabilities", "score")
    assert parse_v2(v2(["a"], outputs=[])).outputs == ("label", "probabilities", "score")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"inputs": [{"data": ["\\ud800"]}]}', "not JSON"),
        (b"[" * 10_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "exactly one tensor"),
        (b'{"inputs": {}}', "exactly one tensor"),
        (b'{"inputs": [1]}', "exactly one tensor"),
        (b'{"inputs": [{}]}', "no list as its data"),
        (v2([]), "no texts"),
        (v2(["a"], name="texts"), "expected one input 'text'"),
        (v2(["a"], datatype="FP32"), "expected one input 'text'"),
        (v2(["a"], shape=[2]), r"its shape must be \[1\]"),
        (v2(["a"], shape=[1, 1]), r"its shape must be \[1\]"),
        (v2(["a"], shape=None), r"its shape must be \[1\]"),
        (v2(["a", 1]), "row 1: expected a string, got int"),
        (v2(["a", None]), "row 1: expected a string, got NoneType"),
        (v2([["a"]]), "row 0: expected a string, got list"),
        (v2(["a" * 10_001]), "row 0: 10001 characters, the limit is 10000"),
        (v2(["a"] * 4097), "4097 texts"),
        (v2(["a"], id=7), "id must be a string"),
        (v2(["a"], outputs=[{"name": "logits"}]), "no output 'logits'"),
        (v2(["a"], outputs=["label"]), "to be a list of"),
        (v2(["a"], outputs={}), "to be a list of"),
    ],
)
def test_a_bad_v2_body_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(BadRequestError, match=reason):
        parse_v2(body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"null", "not a JSON object"),
        (b"{}", "expected"),
        (b'{"instances": "text"}', "expected"),
        (b'{"instances": []}', "no texts"),
        (b'{"instances": ["a", {"body": "b"}]}', "row 1: expected a string, got NoneType"),
        (b'{"instances": ["a", ["b"]]}', "row 1: expected a string, got list"),
    ],
)
def test_a_bad_v1_body_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(BadRequestError, match=reason):
        parse_v1(body)


def test_the_longest_text_and_the_largest_request_are_taken() -> None:
    request = parse_v2(v2(["\U0001f600" * 10_000] + ["a"] * 4095))

    assert len(request.texts) == 4096


def test_a_v2_answer_holds_flat_tensors_with_their_shapes_and_the_model() -> None:
    request = Request(["a", "b"], ("probabilities", "label", "score"), "7")

    answer = json.loads(answer_v2(request, PROBABILITIES, "sentiment", "12"))

    assert [answer[key] for key in ("model_name", "model_version", "id")] == [
        "sentiment",
        "12",
        "7",
    ]
    probabilities, label, score = answer["outputs"]
    assert probabilities == {
        "name": "probabilities",
        "shape": [2, 3],
        "datatype": "FP32",
        "data": [0.1, 0.2, 0.7, 0.5, 0.3, 0.2],
    }
    assert label["data"] == ["positive", "negative"]
    assert (label["shape"], label["datatype"]) == ([2], "BYTES")
    assert score["data"] == pytest.approx([0.6, -0.3])


def test_a_v2_answer_holds_nothing_that_was_not_asked_for() -> None:
    answer = json.loads(answer_v2(Request(["a", "b"], ("score",)), PROBABILITIES, "s", "1"))

    assert [output["name"] for output in answer["outputs"]] == ["score"]
    assert answer["id"]


def test_a_v1_answer_holds_one_prediction_for_each_text_and_the_model() -> None:
    answer = json.loads(answer_v1(PROBABILITIES, "sentiment", "12"))

    assert (answer["model_name"], answer["model_version"]) == ("sentiment", "12")
    first, second = answer["predictions"]
    assert first["label"] == "positive"
    assert first["score"] == pytest.approx(0.6)
    assert second["probabilities"] == pytest.approx(
        {"negative": 0.5, "neutral": 0.3, "positive": 0.2}
    )


def test_arguments_of_a_serving_runtime_win_over_the_settings_and_others_are_left_alone() -> None:
    settings = PredictorSettings(http_port=1, model_dir=Path("elsewhere"))

    changed = with_arguments(
        settings,
        ["--model_name=shadow", "--model_dir", "/mnt/models", "--http_port=8085", "--workers=1"],
    )

    assert (changed.model_name, changed.model_dir) == ("shadow", Path("/mnt/models"))
    assert (changed.http_port, changed.grpc_port) == (8085, 8081)
