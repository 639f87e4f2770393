"""perf_analyzer's `profile_export.json`, which GenAI-Perf writes too: the requests with the texts of responses. Pure.

Checked against files of perf_analyzer 2.60. Responses are events of a stream or whole bodies, of OpenAI's API, Triton's
`generate` or TGI: all are turned into OpenAI's events, and read as our own captures are.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_llmperf.interchange.readers.shared.fields import (
    NUMBER,
    ImportFileError,
    level,
    optional,
    pick,
    pick_list,
    text_at,
)
from pytest_llmperf.interchange.readers.shared.imported import Imported, ImportedPoint, in_order
from pytest_llmperf.interchange.readers.shared.unknown import unless_streamed
from pytest_llmperf.load.answers.interpret import AnswerReader
from pytest_llmperf.load.endpoints.table import ENDPOINTS
from pytest_llmperf.load.trace.trace import PlannedRequest
from pytest_llmperf.load.transport.capture import Capture
from pytest_llmperf.records import RequestRecord

Count = Callable[[str], int]
_END = "data: [DONE]\n\n"


def is_profile_export(document: Mapping[str, Any]) -> bool:
    """True if a document has the keys that perf_analyzer writes beside its experiments."""
    return {"experiments", "version"} <= document.keys() and "benchmarks" not in document


def profile_export(document: Mapping[str, Any], name: str, count: Count | None = None) -> Imported:
    """Experiments at the same load are runs of one point.

    Where the server sent no usage, tokens are counted by `count`, else in chunks; of an answer that was not streamed
    they are unknown then.
    """
    found = pick(document, "experiments", kind=list, where=name)
    if not found:
        raise ImportFileError(f"{name}: no experiment in it")
    loads: dict[tuple[str, float], list[tuple[RequestRecord, ...]]] = {}
    whole: set[tuple[str, float]] = set()
    for place, experiment in enumerate(found, start=1):
        where = f"{name}: experiment {place}"
        mode = pick(experiment, "experiment", "mode", kind=str, where=where)
        value = pick(experiment, "experiment", "value", kind=NUMBER, where=where)
        records, streamed = _run(experiment, document, where, count)
        loads.setdefault((mode, value), []).append(records)
        whole |= set() if streamed else {(mode, value)}
    points = tuple(_point(mode, value, runs, (mode, value) not in whole, name) for (mode, value), runs in loads.items())
    model = next((model for e in found for r in e["requests"] if (model := text_at(_payload(r), "model"))), None)
    return Imported("perf_analyzer", None, model, points)


def _point(
    mode: str, value: float, runs: Sequence[tuple[RequestRecord, ...]], streamed: bool, name: str
) -> ImportedPoint:
    known = mode in ("concurrency", "request_rate")
    kind = int if mode == "concurrency" else NUMBER
    load = {mode: level({mode: value}, mode, kind=kind, where=name)} if known else {"shape": f"{mode} {value:g}"}
    return ImportedPoint(metrics={}, runs=tuple(runs), unknown=unless_streamed(streamed), **load)


def _run(
    experiment: Mapping[str, Any], document: Mapping[str, Any], where: str, count: Count | None
) -> tuple[tuple[RequestRecord, ...], bool]:
    """The requests, and whether all answers were streamed."""
    requests = pick(experiment, "requests", kind=list, where=where)
    if not requests:
        raise ImportFileError(f"{where}: no request in it")
    endpoint = str(document.get("endpoint") or "")
    named = [(request, f"{where}: request {place}") for place, request in enumerate(requests, start=1)]
    answers = [_answer(request, where) for request, where in named]
    # One response to each request is no stream, in which every answer would have a single token.
    answered = [answer for answer in answers if answer.stamps]
    single = bool(answered) and all(answer.bare and len(answer.stamps) == 1 for answer in answered)
    records = [
        _record(request, answer, endpoint, single, where, count)
        for (request, where), answer in zip(named, answers, strict=True)
    ]
    return tuple(in_order(records)), not (single or any(answer.whole for answer in answers))


def _payload(request: Any) -> Any:
    text = optional(request, "request_inputs", "payload")
    return _json(text) if isinstance(text, str) else None


def _json(text: str) -> Any:
    """The value of a JSON text; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


class _Answer:
    """The responses to one request, as reads of a stream of OpenAI's events."""

    def __init__(self, stamps: Sequence[int], outputs: Sequence[Any] | None) -> None:
        self.stamps = stamps
        self.whole = False
        """True if a body came in one piece."""
        self.bare = outputs is not None
        """True if no response is an event of a stream."""
        self._has_no_end = False
        pieces = self._pieces(outputs, len(stamps))
        self.pieces = [*pieces[:-1], pieces[-1] + _END] if pieces and self._has_no_end else pieces

    def _pieces(self, outputs: Sequence[Any] | None, count: int) -> list[str]:
        """Our own exports have no texts, because they hold only the times of chunks that carried tokens."""
        if outputs is None:
            outputs = [{"text_output": "x"}] * count
        if all("text_output" in output for output in outputs):
            self._has_no_end = True
            return [_event(_from_triton(output)) for output in outputs]
        texts = _joined([str(output.get("response") or "") for output in outputs])
        return _separate([self._piece(text) for text in texts])

    def _piece(self, text: str) -> str:
        """One response: a body, or some lines of a stream."""
        if not text.lstrip().startswith(("{", "[")):
            self.bare &= not text.strip()
            return _DATA.sub(lambda line: "data: " + (self._translated(line[1]) or line[1]), text)
        is_end = text.strip() == "[DONE]"
        return _event(text.strip() if is_end else self._translated(text) or " ".join(text.split()))

    def _translated(self, text: str) -> str | None:
        """JSON of another API as OpenAI's event; None where it is that already, or none at all."""
        if '"choices"' in text and '"message"' not in text:
            return None
        found = _json(text)
        event = found[0] if isinstance(found, list) and len(found) == 1 else found
        if not isinstance(event, dict):
            return None
        # Triton's stream has no event for its end.
        self._has_no_end |= "text_output" in event
        made, whole = _as_openai(event)
        self.whole |= whole
        return None if made is None else json.dumps(made)


_DATA = re.compile(r"^data:[ ]?([{\[].*)$", re.MULTILINE)


def _event(found: Mapping[str, Any] | str) -> str:
    return f"data: {found if isinstance(found, str) else json.dumps(found)}\n\n"


def _joined(texts: list[str]) -> list[str]:
    """A body that came in several reads as the text of the last one."""
    if len(texts) < 2 or not texts[0].lstrip().startswith(("{", "[")) or _json(texts[0]) is not None:
        return texts
    body = "".join(texts)
    return [*[""] * (len(texts) - 1), body] if _json(body) is not None else texts


def _separate(pieces: list[str]) -> list[str]:
    """Responses that lost the empty line after an event get it back."""
    following = [*pieces[1:], "data:"]
    return [
        f"{piece.rstrip()}\n\n" if piece.strip() and then.startswith(("data:", "event:")) else piece
        for piece, then in zip(pieces, following, strict=True)
    ]


def _as_openai(event: Mapping[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """An event, or None where it is OpenAI's own, and whether it is a whole body."""
    choices = event.get("choices")
    if isinstance(choices, list):
        whole = any(isinstance(optional(choice, "message"), dict) for choice in choices)
        made = [{**c, "delta": c["message"]} if isinstance(optional(c, "message"), dict) else c for c in choices]
        return ({**event, "choices": made} if whole else None), whole
    if "text_output" in event:
        return _from_triton(event), False
    if "generated_text" in event:
        return _from_tgi(event), "token" not in event
    return None, False


def _from_triton(event: Mapping[str, Any]) -> dict[str, Any]:
    """Triton's extension `generate`: a text per response, in a list of one or bare."""
    text = event["text_output"]
    text = text[0] if isinstance(text, list) and text else text
    reason = event.get("finish_reason")
    choice = {"delta": {"content": text or ""}, **({"finish_reason": reason} if isinstance(reason, str) else {})}
    return {"choices": [choice]}


_TGI_ENDS = {"eos_token": "stop", "stop_sequence": "stop"}


def _from_tgi(event: Mapping[str, Any]) -> dict[str, Any]:
    """TGI: an event per token, of which the last has the whole text too; or the whole text alone."""
    details = event.get("details")
    text = optional(event, "token", "text") if "token" in event else event["generated_text"]
    choice: dict[str, Any] = {"delta": {"content": text or ""}}
    if event["generated_text"] is not None:
        reason = optional(details, "finish_reason")
        choice["finish_reason"] = _TGI_ENDS.get(reason, reason) if isinstance(reason, str) else "stop"
    made = optional(details, "generated_tokens")
    return {"choices": [choice], **({} if made is None else {"usage": {"completion_tokens": made}})}


def _answer(request: Any, where: str) -> _Answer:
    stamps = pick_list(request, "response_timestamps", kind=int, where=where)
    if request.get("response_outputs") is None:
        return _Answer(stamps, None)
    outputs = pick(request, "response_outputs", kind=list, where=where)
    if len(outputs) != len(stamps):
        raise ImportFileError(f"{where}: {len(stamps)} response_timestamps, and {len(outputs)} response_outputs")
    return _Answer(stamps, pick_list(request, "response_outputs", kind=dict, where=where))


def _record(
    request: Mapping[str, Any], answer: _Answer, endpoint: str, single: bool, where: str, count: Count | None
) -> RequestRecord:
    """Read as our own captures are, so that what is a token follows the same rules."""
    sent_ns = pick(request, "timestamp", kind=int, where=where)
    stamps = answer.stamps
    failed = not stamps or request.get("success") is False
    pieces = [piece.encode("utf-8", "replace") for piece in answer.pieces]
    capture = Capture(
        sent_ns=sent_ns,
        ended_ns=stamps[-1] if stamps else sent_ns,
        kernel_ns=(0,) * len(stamps),
        user_ns=tuple(stamps),
        ends=tuple(itertools.accumulate(map(len, pieces))),
        body=b"".join(pieces),
        status=None if failed else 200,
        content_type="text/event-stream",
        error="no response" if failed else None,
    )
    asked = optional(_payload(request), "max_tokens")
    length = asked if isinstance(asked, int) and not isinstance(asked, bool) and 0 < asked < 2**31 else 0
    planned = PlannedRequest(index=0, phase="measured", due_ns=None, prompt="", output_tokens=length)
    # Texts that were turned into OpenAI's events are read as chat.
    paths = {"v1/completions": "completions", "v1/responses": "responses"}
    made = ENDPOINTS[next((api for path, api in paths.items() if endpoint.endswith(path)), "chat")]
    record = AnswerReader(made, count=count).record(capture, planned, "user", request_id="", due_ns=None)
    if record.token_source == "chunks" and (answer.whole or single):
        return replace(record, output_tokens=None, token_source=None)
    return record
