"""Requests as tensors: which input of a model gets what, in JSON and in protobuf."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.endpoints.triton_generate import read_infer
from pytest_llmperf.load.endpoints.triton_grpc import encode_request, read_response, request_id
from pytest_llmperf.load.endpoints.triton_tensors import TensorSpec, fill, for_model, infer_body, input_specs

BODY = {"text_input": "hé", "parameters": {"stream": True, "max_tokens": 5, "temperature": 0.0, "ignore_eos": True}}
TEXT = TensorSpec("text_input", "BYTES", (1,))
TRTLLM = (
    TensorSpec("text_input", "BYTES", (1, 1)),
    TensorSpec("max_tokens", "INT32", (1, 1)),
    TensorSpec("stream", "BOOL", (1, 1), True),
    TensorSpec("temperature", "FP32", (1, 1), True),
    TensorSpec("bad_words", "BYTES", (1, 1), True),
)
VLLM = (
    TEXT,
    TensorSpec("stream", "BOOL", (1,), True),
    TensorSpec("sampling_parameters", "BYTES", (1,), True),
    TensorSpec("exclude_input_in_output", "BOOL", (1,), True),
    TensorSpec("return_num_output_tokens", "BOOL", (1,), True),
)


def _values(specs: tuple[TensorSpec, ...], body: dict[str, Any] = BODY) -> dict[str, tuple[Any, ...]]:
    return {tensor.name: tensor.values for tensor in fill(specs, body).tensors}


def test_inputs_of_a_configuration() -> None:
    config = {
        "max_batch_size": "8",
        "input": [
            {"name": "a", "data_type": "TYPE_STRING", "dims": ["1"]},
            {"name": "b", "data_type": "TYPE_FP32", "dims": [-1, 4], "optional": True},
        ],
    }
    assert input_specs(config) == (TensorSpec("a", "BYTES", (1, 1)), TensorSpec("b", "FP32", (1, 1, 4), True))
    assert input_specs({"input": [{"name": "c", "data_type": "TYPE_BOOL"}]}) == (TensorSpec("c", "BOOL", ()),)


def test_inputs_take_what_is_theirs_and_parameters_the_rest() -> None:
    assert _values(TRTLLM) == {"text_input": ("hé",), "max_tokens": (5,), "stream": (True,), "temperature": (0.0,)}
    assert fill(TRTLLM, BODY).parameters == {"ignore_eos": True}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (("max_tokens", "stream", "min_length"), {"max_tokens": 5, "stream": True, "min_length": 5}),
        (
            ("sampling_param_max_tokens", "streaming", "sampling_param_temperature"),
            {"sampling_param_max_tokens": 5, "streaming": True, "sampling_param_temperature": 0.0},
        ),
        ((), {"max_tokens": 5, "stream": True}),
    ],
)
def test_parameters_go_by_the_names_of_the_model(inputs: tuple[str, ...], expected: dict[str, Any]) -> None:
    """TensorRT-LLM's ensembles of 0.11, and its LLM API."""
    given = {"stream": True, "max_tokens": 5, "temperature": 0.0, "min_tokens": 5}
    specs = (TEXT, *(TensorSpec(name, "INT32", (1,), True) for name in inputs))
    parameters = for_model(specs, {"text_input": "x", "parameters": given})["parameters"]
    assert expected.items() <= parameters.items()
    assert len(parameters) == len(given)


def test_a_parameter_of_the_plan_wins_over_ours_of_the_same_input() -> None:
    specs = (TEXT, TensorSpec("sampling_param_max_tokens", "INT32", (1,), True))
    body = {"text_input": "x", "parameters": {"max_tokens": 5, "sampling_param_max_tokens": 7}}
    assert for_model(specs, body)["parameters"] == {"sampling_param_max_tokens": 7}


def test_vllm_gets_sampling_as_json_and_is_asked_for_counts() -> None:
    values = _values(VLLM, {**BODY, "parameters": {**BODY["parameters"], "exclude_input_in_output": True}})
    assert json.loads(values.pop("sampling_parameters")[0]) == {"max_tokens": 5, "temperature": 0.0, "ignore_eos": True}
    assert values == {
        "text_input": ("hé",),
        "stream": (True,),
        "exclude_input_in_output": (True,),
        "return_num_output_tokens": (True,),
    }
    assert for_model((TEXT,), BODY) == BODY


@pytest.mark.parametrize("name", ["PROMPT", "prompt", "QUERY"])
def test_the_prompt_by_other_names(name: str) -> None:
    assert _values((TensorSpec(name, "BYTES", (1,)), TensorSpec("STREAM", "BOOL", (1,)))) == {
        name: ("hé",),
        "STREAM": (True,),
    }


def test_numbers_that_nobody_gives_are_zeros_and_given_ones_must_fit() -> None:
    image = TensorSpec("image", "FP32", (1, 2, 2))
    assert _values((image,)) == {"image": (0, 0, 0, 0)}
    assert _values((image,), {**BODY, "image": [1, 2, 3, 4]}) == {"image": (1, 2, 3, 4)}
    with pytest.raises(PlanError, match=r"image of shape \[1, 2, 2\] takes 4 values, given 2"):
        fill((image,), {**BODY, "image": [1, 2]})


def test_a_model_without_a_place_for_the_prompt_is_told() -> None:
    with pytest.raises(PlanError, match=r"no input for the prompt .* its inputs: label"):
        fill((TensorSpec("label", "BYTES", (1,)),), BODY)


def test_infer_in_json() -> None:
    assert infer_body((TEXT, TensorSpec("max_tokens", "INT32", (1,))), BODY) == {
        "inputs": [
            {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["hé"]},
            {"name": "max_tokens", "datatype": "INT32", "shape": [1], "data": [5]},
        ],
        "parameters": {"stream": True, "temperature": 0.0, "ignore_eos": True},
    }


def test_infer_in_protobuf() -> None:
    request = ModelInferRequest.FromString(encode_request(BODY, "m", TRTLLM) + request_id("r1"))
    assert (request.model_name, request.id) == ("m", "r1")
    assert [(i.name, i.datatype, list(i.shape)) for i in request.inputs] == [
        ("text_input", "BYTES", [1, 1]),
        ("max_tokens", "INT32", [1, 1]),
        ("stream", "BOOL", [1, 1]),
        ("temperature", "FP32", [1, 1]),
    ]
    text = "hé".encode()
    assert list(request.raw_input_contents) == [
        struct.pack("<I", len(text)) + text,
        struct.pack("<i", 5),
        b"\1",
        struct.pack("<f", 0.0),
    ]
    assert request.parameters["ignore_eos"].bool_param is True


def test_a_parameter_of_every_kind() -> None:
    body = {**BODY, "parameters": {"b": False, "i": 3, "f": 0.5, "s": "x", "l": [1]}}
    found = ModelInferRequest.FromString(encode_request(body, "m", (TEXT,))).parameters
    kinds = {name: (value.WhichOneof("parameter_choice"), value.ListFields()[0][1]) for name, value in found.items()}
    assert kinds == {
        "b": ("bool_param", False),
        "i": ("int64_param", 3),
        "f": ("double_param", 0.5),
        "s": ("string_param", "x"),
        "l": ("string_param", "[1]"),
    }


def _message(*outputs: tuple[str, str, bytes]) -> bytes:
    response = ModelInferResponse(model_name="m")
    for name, datatype, raw in outputs:
        response.outputs.add(name=name, datatype=datatype, shape=[1])
        response.raw_output_contents.append(raw)
    return ModelStreamInferResponse(infer_response=response).SerializeToString()


def test_messages_of_a_stream() -> None:
    text = "né".encode()
    event = read_response(
        _message(("text_output", "BYTES", struct.pack("<I", 3) + text), ("num_output_tokens", "UINT32", b"\2\0\0\0"))
    )
    assert (event.text, event.output, event.token_ids) == ("né", True, 2)
    assert read_response(_message(("OUTPUT0", "FP32", b"\0\0\0\0"))).output
    assert not read_response(_message()).output  # the empty response at the end
    assert not read_response(_message(("text_output", "BYTES", b""))).output
    error = ModelStreamInferResponse(error_message="no such token").SerializeToString()
    assert read_response(error).error == "no such token"
    with pytest.raises(ValueError, match=r"DecodeError|arsing"):
        read_response(b"\xff\xff\xff")
    for cut_short in (("text_output", "BYTES", b"\x05\0"), ("OUTPUT0", "FP32", b"\0\0\0")):
        with pytest.raises(ValueError, match=r"unpack|iterative"):
            read_response(_message(cut_short))


def test_an_answer_of_infer() -> None:
    answer = {"outputs": [{"name": "text_output", "data": ["ab"]}, {"name": "num_output_tokens", "data": [2]}]}
    event = read_infer(json.dumps(answer).encode())
    assert (event.text, event.token_ids) == ("ab", 2)
    assert read_infer(b'{"outputs": [{"name": "OUTPUT0", "data": [0.5]}]}').output
    assert read_infer(b'{"error": "bad"}').error == "bad"
    with pytest.raises(ValueError, match="not a JSON object"):
        read_infer(b"[]")
