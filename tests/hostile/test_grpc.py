"""What strangers send to the predictor's gRPC port: every request is answered, or refused with a
status that blames the request, and the next good one is answered.
"""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from services.core.contract import LABELS
from services.predictor.protocol import OUTPUTS
from services.predictor.rest import MAX_BODY_BYTES
from tests.integration.predictor import Predictor

_SECONDS = 20
"""No answer takes longer."""
BLAMED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
BOUNDED = settings(derandomize=True, max_examples=400)


@pytest.fixture(scope="module")
def channel(predictor: Predictor) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{predictor.grpc_port}") as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


def good() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="sentiment")
    request.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        b"love it"
    )
    return request


def assert_still_serving(stub: GRPCInferenceServiceStub) -> None:
    label = stub.ModelInfer(good(), timeout=_SECONDS).outputs[0]
    assert label.contents.bytes_contents[0].decode() in LABELS


def fields(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


# What protobuf can hold, and around what fits.
sizes = st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**62, -(2**63), 2**63 - 1])
names = st.sampled_from(["text", "label", "", "\0", "é" * 5_000]) | st.text(max_size=8)
parameters = st.dictionaries(
    st.sampled_from(["binary_data", "content_type", "binary_data_size"]) | st.text(max_size=4),
    st.builds(pb.InferParameter, bool_param=st.booleans())
    | st.builds(pb.InferParameter, int64_param=sizes)
    | st.builds(pb.InferParameter, string_param=st.text(max_size=5))
    | st.just(pb.InferParameter()),
    max_size=2,
)
raw_texts = st.lists(st.binary(max_size=12), max_size=3).map(
    lambda texts: b"".join(len(text).to_bytes(4, "little") + text for text in texts)
)
contents = st.builds(
    pb.InferTensorContents,
    bytes_contents=st.lists(
        st.text(max_size=9).map(str.encode) | st.binary(max_size=9), max_size=3
    ),
) | st.builds(
    pb.InferTensorContents,
    int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    fp32_contents=st.lists(st.floats(width=32), max_size=3),
    bool_contents=st.lists(st.booleans(), max_size=2),
)
datatypes = st.sampled_from(["BYTES", "BYTES", "FP32", "FP16", "BOOL", "INT64", "bytes", "", "\0"])
tensors = fields(
    {},
    {
        "name": st.just("text") | names,
        "datatype": datatypes,
        "shape": st.lists(sizes, max_size=3),
        "contents": contents,
        "parameters": parameters,
    },
).map(lambda given: pb.ModelInferRequest.InferInputTensor(**given))
outputs = fields(
    {}, {"name": st.sampled_from(list(OUTPUTS)) | names, "parameters": parameters}
).map(lambda given: pb.ModelInferRequest.InferRequestedOutputTensor(**given))
requests = fields(
    {"model_name": st.sampled_from(["sentiment"] * 6 + ["", "other", "../sentiment", "\0"])},
    {
        "model_version": st.text(max_size=4),
        "id": st.text(max_size=40),
        "parameters": parameters,
        "inputs": st.lists(tensors, max_size=2),
        "outputs": st.lists(outputs, max_size=3),
        "raw_input_contents": st.lists(raw_texts | st.binary(max_size=40), max_size=2),
    },
).map(lambda given: pb.ModelInferRequest(**given))


@given(requests)
@example(good())
@BOUNDED
def test_whatever_is_inferred_is_answered_or_the_request_is_blamed(
    stub: GRPCInferenceServiceStub, request_: pb.ModelInferRequest
) -> None:
    call = stub.ModelInfer.future(request_, timeout=_SECONDS)

    if call.code() is grpc.StatusCode.OK:
        answer = call.result()
        assert answer.model_name == "sentiment"
        assert len(answer.outputs) == (len(request_.outputs) or len(OUTPUTS))
    else:
        assert call.code() in BLAMED, (request_, call.details())
        assert call.details()
    assert_still_serving(stub)


@given(st.binary(max_size=60))
@example(b"\xff" * 50)
@settings(derandomize=True, max_examples=100)
def test_bytes_that_are_no_request_break_nothing(
    channel: grpc.Channel, stub: GRPCInferenceServiceStub, body: bytes
) -> None:
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    try:
        pb.ModelInferRequest.FromString(body)
        known = True
    except Exception:
        known = False

    with pytest.raises(grpc.RpcError) as caught:
        infer(body, timeout=_SECONDS)

    # That a message is none is said by gRPC itself, which knows no better status.
    assert caught.value.code() in (BLAMED if known else {grpc.StatusCode.UNKNOWN})
    assert_still_serving(stub)


def test_a_message_over_the_limit_is_refused_unread(stub: GRPCInferenceServiceStub) -> None:
    request = good()
    request.inputs[0].contents.bytes_contents[0] = b"a" * MAX_BODY_BYTES

    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=_SECONDS)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert_still_serving(stub)


@pytest.mark.parametrize("shape", [[2**62], [2**31, 2**31], [1] * 10_000, [-1]])
@pytest.mark.parametrize("raw", [b"", b"\x01\0\0\0a", b"\xff\xff\xff\xff"])
def test_a_shape_is_believed_only_where_the_contents_say_so(
    stub: GRPCInferenceServiceStub, shape: list[int], raw: bytes
) -> None:
    request = pb.ModelInferRequest(model_name="sentiment")
    request.inputs.add(name="text", datatype="BYTES", shape=shape)
    request.raw_input_contents.append(raw)

    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=_SECONDS)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert_still_serving(stub)


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
@pytest.mark.parametrize("name", ["", "other", "../sentiment", "\0", "a" * 1_000])
def test_a_model_that_is_not_here_is_said_to_be_unknown(
    stub: GRPCInferenceServiceStub, method: str, name: str
) -> None:
    request = getattr(pb, f"{method}Request")(name=name)

    with pytest.raises(grpc.RpcError) as caught:
        getattr(stub, method)(request, timeout=_SECONDS)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert_still_serving(stub)
