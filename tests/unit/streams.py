"""Streams as servers write them, and what is read of them; for tests of how answers are read."""

from __future__ import annotations

import json
from typing import Any

from samples import cut

from pytest_llmperf.load.answers.interpret import AnswerReader
from pytest_llmperf.load.answers.templates import Templates
from pytest_llmperf.load.endpoints.table import ENDPOINTS, Asked
from pytest_llmperf.load.trace.trace import BatchPrompt, PlannedRequest
from pytest_llmperf.load.transport.capture import Capture
from pytest_llmperf.records import RequestRecord

DONE = b"data: [DONE]\n\n"


def sse(event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def delta(content: dict[str, Any] | str, usage: Any = None, reason: Any = None, index: int = 0, **choice: Any) -> bytes:
    """One chunk of a chat; a text is its content. `usage` may be a count."""
    fields = {"content": content} if isinstance(content, str) else content
    event = {"choices": [{"index": index, "delta": fields, "finish_reason": reason, **choice}]}
    return sse(event | with_usage(usage))


def with_usage(usage: Any) -> dict[str, Any]:
    if usage is None or isinstance(usage, dict):
        return {} if usage is None else {"usage": usage}
    return {"usage": {"prompt_tokens": 7, "completion_tokens": usage, "total_tokens": 0}}


def end(usage: Any = None, reason: Any = "stop") -> tuple[bytes, ...]:
    """A chunk with the reason, the request's usage if there is any, and [DONE]."""
    total = () if usage is None else (sse({"choices": [], **with_usage(usage)}),)
    return (delta({}, reason=reason), *total, DONE)


def read(
    *reads: bytes, endpoint: str = "chat", prompts: int = 1, asked: Asked | None = None, count: Any = None, **given: Any
) -> RequestRecord:
    """The record of a stream whose read `i` came at 1000 * (i + 1); with templates and without, which must agree."""
    stamps = tuple(1000 * (i + 1) for i in range(len(reads)))
    facts: dict[str, Any] = {"content_type": "text/event-stream", "status": 200, "error": None} | given
    capture = Capture(sent_ns=0, ended_ns=10**6, kernel_ns=stamps, user_ns=stamps, **cut(reads), **facts)
    batch = (BatchPrompt("q", "", None),) * (prompts - 1)
    planned = PlannedRequest(0, "measured", None, "p", 8, batch=batch)
    asked = asked or Asked()
    templates = Templates(ENDPOINTS[endpoint].read)
    slowly, *others = [
        AnswerReader(ENDPOINTS[endpoint], asked=asked, count=count, templates=used).record(
            capture, planned, "kernel", request_id="", due_ns=None
        )
        for used in (Templates(ENDPOINTS[endpoint].read, tries=0), templates, templates)
    ]
    assert others == [slowly, slowly]
    return slowly
