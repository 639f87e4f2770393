"""The requests of a load as the bytes that a connection sends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from pytest_llmperf import __version__
from pytest_llmperf.load.endpoints import triton_grpc
from pytest_llmperf.load.endpoints.openai import Content, Message, request_body
from pytest_llmperf.load.endpoints.table import ENDPOINTS
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.endpoints.triton_tensors import TensorSpec
from pytest_llmperf.load.trace.trace import PlannedRequest, Trace, marked_prompt, plain_prompt
from pytest_llmperf.load.transport.connection import Origin
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.urls import request_target

_Kind = tuple[str, bool, tuple[TensorSpec, ...]]
"""Facts of a target that a body depends on: the model's name, whether every chunk carries usage, the model's inputs."""

_FEWEST_TOKENS = {"responses": 16}
"""The shortest answer that may be asked for, by endpoint: what OpenAI's own API takes. 1 for all others."""
_ID = b"\r\nX-Request-Id: "
"""Beginning of the header with a request's id; not added to a head that has one of the user's."""


def request_headers(target: Target) -> dict[str, str]:
    """The headers of every request to it; the user's win."""
    return {
        "User-Agent": f"pytest-llmperf/{__version__}",
        "Accept": "text/event-stream",
        "Content-Type": "application/json",
        **{name.title(): value for name, value in target.headers},
    }


def first_body(point: LoadPoint, target: Target) -> bytes:
    """The body of a request like the load's for the shortest answer, by which a server shows that it is ready."""
    content: Content = (1, 2) if point.prompt_form == "token-ids" else "Hello"
    return _encoded(point, _kind(point, target), content, _FEWEST_TOKENS.get(point.endpoint, 1))


def _encoded(
    point: LoadPoint, kind: _Kind, content: Content | list[Content], tokens: int, history: Sequence[Message] = ()
) -> bytes:
    endpoint, (model, every_chunk_usage, inputs) = ENDPOINTS[point.endpoint], kind
    # Only chat has a history.
    write = partial(request_body, history=history) if history else endpoint.body
    body = write(point, content, tokens, model=model, every_chunk_usage=every_chunk_usage)
    return endpoint.encode(body, model, inputs)


def _kind(point: LoadPoint, target: Target) -> _Kind:
    asked = point.stream_usage
    return target.model, target.continuous_usage if asked is None else asked == "every-chunk", target.inputs


class RequestBytes:
    """The prompts of one load, marked as its own, and every request's body per kind of target.

    Bodies are encoded before the window, not in it; later turns of a conversation have theirs when the answers before
    them are known.
    """

    def __init__(self, targets: Sequence[Target], point: LoadPoint, trace: Trace, mark: str) -> None:
        self.origins = [Origin(target.url) for target in targets]
        self.endpoint = ENDPOINTS[point.endpoint]
        self.prompts: dict[int, Content | list[Content]] = {}
        """Prompts by the request's index."""
        self._targets = targets
        self._point = point
        self._trace = trace
        self._mark = mark
        self._heads = [self._head(target, origin) for target, origin in zip(targets, self.origins, strict=True)]
        self._bodies: dict[_Kind, dict[int, bytes]] = {_kind(point, target): {} for target in targets}

    def prepare(self, requests: Iterable[PlannedRequest]) -> None:
        """Makes their prompts and bodies."""
        mark = "warm" if self._point.prefix_cache == "warm" else self._mark
        for request in requests:
            # A prompt whose answer is scored carries no mark, which might change the answer.
            scored = self._point.answers is not None
            own = f"{self._trace.hash}/{mark}"
            prompt = plain_prompt(request) if scored else marked_prompt(request, own, self._trace.pieces)
            self.prompts[request.index] = prompt
            for kind, bodies in self._bodies.items():
                if not request.turn:
                    bodies[request.index] = _encoded(self._point, kind, prompt, request.output_tokens)

    def repeat(self, requests: Sequence[PlannedRequest], renewed: Sequence[PlannedRequest]) -> None:
        """Makes the prompts and bodies of `renewed`, which are `requests` once more: with marks of their own, or the
        same where the server is to know them."""
        if self._point.prefix_cache != "warm":
            self.prepare(renewed)
            return
        for known, again in zip(requests, renewed, strict=True):
            self.prompts[again.index] = self.prompts[known.index]
            for bodies in self._bodies.values():
                if not again.turn:
                    bodies[again.index] = bodies[known.index]

    def forget(self, requests: Iterable[PlannedRequest]) -> None:
        """Drops the prompts and bodies of requests that are not sent again."""
        for request in requests:
            del self.prompts[request.index]
            for bodies in self._bodies.values():
                bodies.pop(request.index, None)

    def encoded(self, number: int, request: PlannedRequest, history: Sequence[Message] = ()) -> bytes:
        """The bytes of a request for target `number`."""
        kind = _kind(self._point, self._targets[number])
        if history:
            body = _encoded(self._point, kind, self.prompts[request.index], request.output_tokens, history)
        else:
            body = self._bodies[kind][request.index]
        if self.endpoint.framing == "messages":
            return body + triton_grpc.request_id(self.request_id(request))
        head = self._heads[number]
        own_id = "" if _ID in head else f"X-Request-Id: {self.request_id(request)}\r\n"
        return head + f"{own_id}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body

    def request_id(self, request: PlannedRequest) -> str:
        return f"llmperf-{self._trace.hash[:8]}-{self._mark}-{request.index}"

    def _head(self, target: Target, origin: Origin) -> bytes:
        """The head of every request to it, up to what is the request's own."""
        headers = {"Host": origin.netloc, **request_headers(target)}
        lines = [f"POST {request_target(target.posted_at(self.endpoint.path(target.model)))} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items() if name != "Content-Length"]
        return ("\r\n".join(lines) + "\r\n").encode("ascii")
