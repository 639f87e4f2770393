"""The trace of a load point: every request that a run sends, decided before it starts, the same in every run."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np

from pytest_llmperf.load.openai import request_body
from pytest_llmperf.load.schedule import SlotPlan, cancelled, open_loop, slot_plan
from pytest_llmperf.plan import LoadPoint
from pytest_llmperf.records import Phase
from pytest_llmperf.shapes import Cancel, TraceReplay
from pytest_llmperf.traces import BLOCK_TOKENS, read_trace
from pytest_llmperf.words import WORDS

_MARK_WORDS = 3


_ENDLESS_REQUESTS = 256
"""A closed loop that goes by time sends so many requests over and over, each time with other marks."""
_BLOCK_STREAM = 3
"""Keeps the texts of a trace's blocks apart from the other draws of a seed."""


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request of a trace. `due_ns` is the offset from the run's start; None in closed loop."""

    index: int
    phase: Phase
    due_ns: int | None
    prompt: str
    output_tokens: int
    batch: tuple[str, ...] = ()
    """Further prompts of the same request (`batch_size`)."""
    shares_prefix: bool = False
    """Begins like other requests of the trace on purpose, so that its mark must be theirs too."""
    cancel_after_s: float | None = None
    """When the client breaks it off, from sending; None: never."""

    @property
    def prompts(self) -> int:
        return 1 + len(self.batch)


@dataclass(frozen=True, slots=True)
class Trace:
    """`hash` covers everything that is sent and when, except model name and the marks of `marked_prompt`."""

    warmup: tuple[PlannedRequest, ...]
    requests: tuple[PlannedRequest, ...]
    hash: str
    slots: SlotPlan | None = None
    """A closed loop that goes by time: after the last of `requests` it goes on with the first."""


def make_trace(point: LoadPoint, key: str) -> Trace:
    """The trace of `point`, from its seed or, without one, from `key` (the point's stable id).

    Raises PlanError when the point replays a file that cannot be read.
    """
    seed = point.seed if point.seed is not None else int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    draws = np.random.PCG64((seed, 1))  # its raw stream stays the same in every version of numpy
    slots = slot_plan(point)
    requests = tuple(_replayed(point.trace, draws, seed) if point.trace else _synthetic(point, slots, draws, seed))
    lengths = (requests[0].prompt.count(" ") + 1, requests[0].output_tokens)
    warmup = tuple(
        PlannedRequest(index, "lead-in", None, _prompt(draws, lengths[0]), lengths[1])
        for index in range(point.warmup_requests)
    )
    if point.cancel is not None:
        requests = _with_cancelled(requests, point.cancel, seed)
    return Trace(warmup, requests, _hash(point, requests, slots), slots)


def _synthetic(point: LoadPoint, slots: SlotPlan | None, draws: np.random.PCG64, seed: int) -> Iterator[PlannedRequest]:
    """Prompts of random words, all of one length."""
    assert point.input_tokens is not None, "only a trace has lengths of its own"
    for index, (phase, due) in enumerate(_timing(point, slots, seed)):
        prompt, *batch = [_prompt(draws, point.input_tokens) for _ in range(point.batch_size)]
        yield PlannedRequest(index, phase, due, prompt, point.output_tokens, tuple(batch))


def _timing(point: LoadPoint, slots: SlotPlan | None, seed: int) -> Sequence[tuple[Phase, int | None]]:
    """Phase and due time of every request; the phases of a closed loop that goes by time may still change."""
    if not point.closed_loop:
        return open_loop(point, seed)
    lead_in = slots.levels[0].slots if slots else point.concurrency or 0
    measured = max(_ENDLESS_REQUESTS, slots.most) if slots else point.requests or 0
    return [("lead-in" if index < lead_in else "measured", None) for index in range(lead_in + measured)]


def _replayed(given: TraceReplay, draws: np.random.PCG64, seed: int) -> Iterator[PlannedRequest]:
    """Prompts as long as recorded; where blocks have the same number they are the same words in every request."""
    blocks: dict[int, list[str]] = {}
    for index, entry in enumerate(read_trace(given)):
        for block in entry.blocks:
            if block not in blocks:
                blocks[block] = _words(np.random.PCG64((seed, _BLOCK_STREAM, block)), BLOCK_TOKENS)
        shared = list(itertools.chain.from_iterable(blocks[block] for block in entry.blocks))[: entry.input_tokens]
        prompt = " ".join(shared + _words(draws, entry.input_tokens - len(shared)))
        due_ns = round(entry.due_s * 1e6) * 1000
        yield PlannedRequest(index, "measured", due_ns, prompt, entry.output_tokens, shares_prefix=bool(entry.blocks))


def _with_cancelled(requests: tuple[PlannedRequest, ...], cancel: Cancel, seed: int) -> tuple[PlannedRequest, ...]:
    chosen = cancelled(cancel.share, len(requests), seed)
    return tuple(
        replace(request, cancel_after_s=cancel.after) if is_chosen and request.phase == "measured" else request
        for request, is_chosen in zip(requests, chosen, strict=True)
    )


def marked_prompt(request: PlannedRequest, run: str) -> str | list[str]:
    """The prompt with its first words made unique to this request and `run`; a list where the request has several.

    Without it the second run of a trace would find its prompts in the server's prefix cache and measure no prefill.
    """
    offset = 0 if request.shares_prefix else request.index
    prompt = _marked(request.prompt, run, offset)
    return (
        [prompt, *(_marked(more, f"{run}/{n}", offset) for n, more in enumerate(request.batch))]
        if request.batch
        else prompt
    )


def _marked(prompt: str, run: str, offset: int) -> str:
    words = prompt.split(" ", _MARK_WORDS)
    count = min(_MARK_WORDS, len(words))
    number = int.from_bytes(hashlib.sha256(run.encode()).digest()[:8], "big") + offset
    mark = []
    for _ in range(count):
        number, digit = divmod(number, len(WORDS))
        mark.append(WORDS[digit])
    return " ".join(mark + words[count:])


def _prompt(draws: np.random.PCG64, tokens: int) -> str:
    """About `tokens` tokens: one per word with its leading space."""
    return " ".join(_words(draws, tokens))


def _words(draws: np.random.PCG64, count: int) -> list[str]:
    return [WORDS[chosen] for chosen in (draws.random_raw(count) % len(WORDS)).tolist()]


def _hash(point: LoadPoint, requests: tuple[PlannedRequest, ...], slots: SlotPlan | None) -> str:
    digest = hashlib.sha256()
    for request in requests:
        prompt = [request.prompt, *request.batch] if request.batch else request.prompt
        body = request_body(point, prompt, model="", every_chunk_usage=False, output_tokens=request.output_tokens)
        digest.update(json.dumps([request.phase, request.due_ns, body], sort_keys=True).encode())
        if request.cancel_after_s is not None:
            digest.update(f"cancel {request.cancel_after_s!r}".encode())
    # Only where they are used, so that traces without them keep the hash that baselines have stored.
    extras = {
        "slots": astuple(slots) if slots else None,
        "max_in_flight": point.max_in_flight,
        "connection": None if point.connection == "keep-alive" else point.connection,
    }
    if used := {name: value for name, value in extras.items() if value is not None}:
        digest.update(json.dumps(used).encode())
    return digest.hexdigest()
