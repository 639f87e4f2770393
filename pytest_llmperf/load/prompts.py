"""The trace of a load point: every request that a run sends, decided before it starts, the same in every run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from pytest_llmperf.load.arrivals import due_offsets_ns
from pytest_llmperf.load.openai import request_body
from pytest_llmperf.plan import LoadPoint
from pytest_llmperf.records import Phase
from pytest_llmperf.words import WORDS

_MARK_WORDS = 3


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request of a trace. `due_ns` is the offset from the run's start; None in closed loop."""

    index: int
    phase: Phase
    due_ns: int | None
    prompt: str
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """`hash` covers everything that is sent and when, except model name and the marks of `marked_prompt`."""

    warmup: tuple[PlannedRequest, ...]
    requests: tuple[PlannedRequest, ...]
    hash: str


def make_trace(point: LoadPoint, key: str) -> Trace:
    """The trace of `point`, from its seed or, without one, from `key` (the point's stable id)."""
    seed = point.seed if point.seed is not None else int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    draws = np.random.PCG64((seed, 1))  # its raw stream stays the same in every version of numpy
    lead_in = point.concurrency or 0
    phases: list[Phase] = ["lead-in" if index < lead_in else "measured" for index in range(lead_in + point.requests)]
    dues: tuple[int, ...] | tuple[None, ...] = (None,) * len(phases)
    if point.request_rate is not None:
        dues = due_offsets_ns(point.arrival, point.request_rate, point.requests, seed)
    requests = tuple(
        PlannedRequest(index, phase, due, _prompt(draws, point.input_tokens), point.output_tokens)
        for index, (phase, due) in enumerate(zip(phases, dues, strict=True))
    )
    warmup = tuple(
        PlannedRequest(index, "lead-in", None, _prompt(draws, point.input_tokens), point.output_tokens)
        for index in range(point.warmup_requests)
    )
    return Trace(warmup, requests, _hash(point, requests))


def marked_prompt(request: PlannedRequest, run: str) -> str:
    """The prompt with its first words made unique to this request and `run`.

    Without it the second run of a trace would find its prompts in the server's prefix cache and measure no prefill.
    """
    words = request.prompt.split(" ", _MARK_WORDS)
    count = min(_MARK_WORDS, len(words))
    number = int.from_bytes(hashlib.sha256(run.encode()).digest()[:8], "big") + request.index
    mark = []
    for _ in range(count):
        number, digit = divmod(number, len(WORDS))
        mark.append(WORDS[digit])
    return " ".join(mark + words[count:])


def _prompt(draws: np.random.PCG64, tokens: int) -> str:
    """About `tokens` tokens: one per word with its leading space."""
    return " ".join([WORDS[chosen] for chosen in (draws.random_raw(tokens) % len(WORDS)).tolist()])


def _hash(point: LoadPoint, requests: tuple[PlannedRequest, ...]) -> str:
    digest = hashlib.sha256()
    for request in requests:
        body = request_body(point, request.prompt, model="", every_chunk_usage=False)
        digest.update(json.dumps([request.phase, request.due_ns, body], sort_keys=True).encode())
    return digest.hexdigest()
