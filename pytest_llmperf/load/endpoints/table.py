"""The endpoints a load can go to: where requests are posted, what they hold, and what the events of an answer say."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import quote

from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.endpoints import openai, responses, triton_generate, triton_grpc
from pytest_llmperf.load.endpoints.openai import Content, Event
from pytest_llmperf.load.endpoints.triton_tensors import TensorSpec, for_model, infer_body
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


Encode = Callable[[dict[str, Any], str, Sequence[TensorSpec]], bytes]
"""Makes the bytes of a body for a model by name, with its inputs (empty where they are not known)."""


def _as_json(body: dict[str, Any], model: str, inputs: Sequence[TensorSpec]) -> bytes:
    return json.dumps(body).encode()


def _as_generate(body: dict[str, Any], model: str, inputs: Sequence[TensorSpec]) -> bytes:
    return json.dumps(for_model(inputs, body)).encode()


def _as_infer(body: dict[str, Any], model: str, inputs: Sequence[TensorSpec]) -> bytes:
    return json.dumps(infer_body(_known(inputs), body)).encode()


def _as_grpc(body: dict[str, Any], model: str, inputs: Sequence[TensorSpec]) -> bytes:
    return triton_grpc.encode_request(body, model, _known(inputs))


def _known(inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    if not inputs:
        raise PlanError("endpoints infer and grpc need engine: triton or triton-remote, which tells a model's inputs")
    return inputs


Framing = Literal["sse", "body", "messages"]
"""Division of an answer into events: server-sent events, the whole body as one, or one message per read."""


class Endpoint(NamedTuple):
    """The format of a kind of requests and of its answers; `read` raises ValueError on bytes that are no event of
    it.
    """

    route: str
    body: Body
    read: Callable[[bytes], Event]
    says_end: bool = True
    """True if a stream without a finish reason or [DONE] has been cut off."""
    framing: Framing = "sse"
    encode: Encode = _as_json
    up: str = "/v1/models"
    """Route that a server of such requests answers once it is up."""

    def path(self, model: str) -> str:
        """The path that requests for a model are posted to."""
        return self.route.format(model=quote(model, safe=""))


class Asked(NamedTuple):
    """The parts of a load's requests that decide how their answers are read."""

    n: int = 1
    """Answers to each prompt."""
    good_finish_reasons: tuple[str, ...] = ()
    """Reasons that are an answer's good end beside the usual ones."""


ONE_ANSWER = Asked()


def asked_by(point: LoadPoint) -> Asked:
    """Returns how answers to a point's requests are read; `n` is OpenAI's, in the body that the plan writes."""
    n = point.extra_body.get("n") if point.endpoint in ("chat", "completions") else None
    return Asked(n if isinstance(n, int) and n > 0 else 1, point.good_finish_reasons)


_TRITON = partial(Endpoint, body=triton_generate.request_body, says_end=False, up=triton_generate.TRITON_READY)
ENDPOINTS: dict[str, Endpoint] = {
    "chat": Endpoint("/v1/chat/completions", openai.request_body, openai.read_event),
    "completions": Endpoint("/v1/completions", openai.request_body, openai.read_event),
    "responses": Endpoint("/v1/responses", responses.request_body, responses.read_event),
    "generate": _TRITON("/v2/models/{model}/generate_stream", read=triton_generate.read_event, encode=_as_generate),
    "generate-once": _TRITON(
        "/v2/models/{model}/generate", read=triton_generate.read_event, framing="body", encode=_as_generate
    ),
    "infer": _TRITON("/v2/models/{model}/infer", read=triton_generate.read_infer, framing="body", encode=_as_infer),
    "grpc": _TRITON(
        "/v2/models/{model}/generate_stream", read=triton_grpc.read_response, framing="messages", encode=_as_grpc
    ),
}
TRITON_ENDPOINTS = tuple(name for name, endpoint in ENDPOINTS.items() if endpoint.up == triton_generate.TRITON_READY)
OPENAI_ENDPOINTS = tuple(name for name in ENDPOINTS if name not in TRITON_ENDPOINTS)
