"""The endpoints a load can go to: where requests are posted, what they hold, and what the events of an answer say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from pytest_llmperf.load import openai, responses, triton_generate
from pytest_llmperf.load.openai import Event
from pytest_llmperf.load.texts import Content
from pytest_llmperf.plan import LoadPoint


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


class Endpoint(NamedTuple):
    """`path` is that for a model; `read` raises ValueError on what is no event of this endpoint."""

    path: Callable[[str], str]
    body: Body
    read: Callable[[bytes], Event]
    says_end: bool = True
    """Whether a stream without a finish reason, usage or [DONE] has been cut off."""


ENDPOINTS: dict[str, Endpoint] = {
    "chat": Endpoint(lambda model: "/v1/chat/completions", openai.request_body, openai.read_event),
    "completions": Endpoint(lambda model: "/v1/completions", openai.request_body, openai.read_event),
    "responses": Endpoint(lambda model: "/v1/responses", responses.request_body, responses.read_event),
    "generate": Endpoint(triton_generate.path, triton_generate.request_body, triton_generate.read_event, False),
}
