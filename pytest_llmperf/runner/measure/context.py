"""Requests that a server's context cannot hold, or that there are not, known before the first of them is sent."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.trace.trace import Trace
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.servers.http import longest_context

_TOLD_OF = ("chat", "completions", "responses")
"""Endpoints of servers that have `/v1/models`."""


def check_context(targets: Iterable[Target], point: LoadPoint, trace: Trace) -> None:
    """Raises PlanError where a request asks for more tokens than prompt and answer may have on one of the servers, and
    where there is none: random arrivals may all be later than a short load's end.

    A prompt of unknown length counts as none: servers count tokens of a text in their own way.
    """
    if not trace.requests:
        raise PlanError(f"load {point.name}: no {point.arrival} arrival is before its end; make it longer")
    request = max(trace.requests, key=lambda one: (one.input_tokens or 0) + one.output_tokens)
    prompt = f"a prompt of {request.input_tokens} and " if request.input_tokens else ""
    for target in targets if point.endpoint in _TOLD_OF else ():
        most = longest_context(target)
        if most is not None and (request.input_tokens or 0) + request.output_tokens > most:
            raise PlanError(
                f"load {point.name}: {prompt}{request.output_tokens} output tokens are more than {target.shown} takes: "
                f"its /v1/models says max_model_len {most}"
            )
