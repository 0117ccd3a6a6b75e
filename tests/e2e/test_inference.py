"""The InferenceService over HTTP, by both of its addresses and both protocols."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.deployed import Platform

_TEXTS = ["a wonderful day", "a terrible day", "a day"]
_LABELS = {"negative", "neutral", "positive"}


@pytest.fixture(scope="module", params=["our Service", "KServe's Service"])
def address(platform: Platform, request: pytest.FixtureRequest) -> Iterator[str]:
    """Each address by which the predictor can be reached."""
    name = "predictor"
    if request.param == "KServe's Service":
        url = platform.get("inferenceservice", "sentiment")["status"]["address"]["url"]
        name = str(urlsplit(url).hostname).split(".")[0]
    with platform.forwarded(name, 80) as url:
        yield url


def test_v1_scores_each_instance(address: str) -> None:
    status, answer = _post(f"{address}/v1/models/sentiment:predict", {"instances": _TEXTS})

    assert status == 200
    assert len(answer["predictions"]) == len(_TEXTS)
    for prediction in answer["predictions"]:
        assert prediction["label"] in _LABELS
        assert set(prediction["probabilities"]) == _LABELS
        assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_v2_scores_each_text(address: str) -> None:
    status, answer = _post(f"{address}/v2/models/sentiment/infer", _v2(_TEXTS))

    assert status == 200
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["label"]["shape"] == [len(_TEXTS)]
    assert set(outputs["label"]["data"]) <= _LABELS
    assert outputs["probabilities"]["shape"] == [len(_TEXTS), len(_LABELS)]


def test_both_protocols_give_the_same_labels_by_the_same_version(
    platform: Platform, address: str
) -> None:
    served = platform.get("inferenceservice", "sentiment")["metadata"]["annotations"]

    _, first = _post(f"{address}/v1/models/sentiment:predict", {"instances": _TEXTS})
    _, second = _post(f"{address}/v2/models/sentiment/infer", _v2(_TEXTS))

    [labels] = [output["data"] for output in second["outputs"] if output["name"] == "label"]
    assert [prediction["label"] for prediction in first["predictions"]] == labels
    assert first["model_version"] == second["model_version"]
    assert first["model_version"] == served["moodstream.io/model-version"]


def test_the_model_says_that_it_is_ready(address: str) -> None:
    with urllib.request.urlopen(f"{address}/v2/models/sentiment/ready", timeout=30) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("v1/models/sentiment:predict", {"instances": [7]}),
        ("v1/models/sentiment:predict", {"instances": "a text"}),
        ("v2/models/sentiment/infer", {"inputs": []}),
        (
            "v2/models/sentiment/infer",
            {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["one"]}]},
        ),
    ],
)
def test_a_bad_row_is_the_callers_fault(address: str, path: str, body: dict[str, Any]) -> None:
    status, answer = _post(f"{address}/{path}", body)

    assert status == 400
    assert answer["error"]


def _v2(texts: list[str]) -> dict[str, Any]:
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    return {"inputs": [tensor]}


def _post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)
