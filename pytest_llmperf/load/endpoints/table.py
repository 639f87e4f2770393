"""The endpoints a load can go to: where requests are posted, what they hold, and what the events of an answer say."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.endpoints import openai, responses, triton_generate, triton_grpc
from pytest_llmperf.load.endpoints.openai import Content, Event
from pytest_llmperf.load.endpoints.triton_tensors import TensorSpec, infer_body, with_counts
from pytest_llmperf.plan.load.point import LoadPoint


class Body(Protocol):
    """The JSON body of one request for `output_tokens` tokens."""

    def __call__(
        self,
        point: LoadPoint,
        content: Content | list[Content],
        output_tokens: int,
        *,
        model: str,
        every_chunk_usage: bool,
    ) -> dict[str, Any]: ...


class Encode(Protocol):
    """The bytes of a body for a model with these inputs (empty where they are not known)."""

    def __call__(self, body: dict[str, Any], model: str, inputs: Sequence[TensorSpec]) -> bytes: ...


def _as_json(body: dict[str, Any], model: str, inputs: Sequence[TensorSpec]) -> bytes:
    return json.dumps(body).encode()


def _as_generate(body: dict[str, Any], model: str, inputs: Sequence[TensorSpec]) -> bytes:
    return json.dumps(with_counts(inputs, body)).encode()


def _as_infer(body: dict[str, Any], model: str, inputs: Sequence[TensorSpec]) -> bytes:
    return json.dumps(infer_body(_known(inputs), body)).encode()


def _as_grpc(body: dict[str, Any], model: str, inputs: Sequence[TensorSpec]) -> bytes:
    return triton_grpc.encode_request(body, model, _known(inputs))


def _known(inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    if not inputs:
        raise PlanError("endpoints infer and grpc need engine: triton or triton-remote, which tells a model's inputs")
    return inputs


Framing = Literal["sse", "body", "messages"]
"""How an answer is cut into events: server-sent events, the whole body as one, or one message per read."""


class Endpoint(NamedTuple):
    """`path` is that for a model; `read` raises ValueError on what is no event of this endpoint."""

    path: Callable[[str], str]
    body: Body
    read: Callable[[bytes], Event]
    says_end: bool = True
    """Whether a stream without a finish reason or [DONE] has been cut off."""
    framing: Framing = "sse"
    encode: Encode = _as_json


class Asked(NamedTuple):
    """What the requests of a load ask for, as far as it decides how their answers are read."""

    n: int = 1
    """Answers to each prompt."""
    good_finish_reasons: tuple[str, ...] = ()
    """Reasons that are an answer's good end beside the usual ones."""


ONE_ANSWER = Asked()


def asked_by(point: LoadPoint) -> Asked:
    """What the requests of a point ask for; `n` is OpenAI's, in the body that the plan writes."""
    n = point.extra_body.get("n") if point.endpoint in ("chat", "completions") else None
    return Asked(n if isinstance(n, int) and n > 0 else 1, point.good_finish_reasons)


ENDPOINTS: dict[str, Endpoint] = {
    "chat": Endpoint(lambda model: "/v1/chat/completions", openai.request_body, openai.read_event),
    "completions": Endpoint(lambda model: "/v1/completions", openai.request_body, openai.read_event),
    "responses": Endpoint(lambda model: "/v1/responses", responses.request_body, responses.read_event),
    "generate": Endpoint(
        triton_generate.path, triton_generate.request_body, triton_generate.read_event, False, "sse", _as_generate
    ),
    "generate-once": Endpoint(
        triton_generate.whole_path,
        triton_generate.request_body,
        triton_generate.read_event,
        False,
        "body",
        _as_generate,
    ),
    "infer": Endpoint(
        triton_generate.infer_path, triton_generate.request_body, triton_generate.read_infer, False, "body", _as_infer
    ),
    "grpc": Endpoint(
        triton_generate.path, triton_generate.request_body, triton_grpc.read_response, False, "messages", _as_grpc
    ),
}
