"""The trace of a load point: every request that a run sends, decided before it starts, the same in every run."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from pytest_llmperf.embedded.engine.vocabulary import WORDS
from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.endpoints.openai import Content
from pytest_llmperf.load.endpoints.table import ENDPOINTS
from pytest_llmperf.load.trace.schedule import SlotPlan, cancelled, open_loop, slot_plan
from pytest_llmperf.load.trace.texts import Prompt, Writer, joined, make_prefixes, make_writer, with_mark
from pytest_llmperf.load.trace.tokenizer import load_tokenizer
from pytest_llmperf.plan.load.files.datasets import Dataset, Dialogue, parse_dataset, read_prompts
from pytest_llmperf.plan.load.files.traces import RecordedTrace, TraceEntry, read_trace
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.prompts import Lengths
from pytest_llmperf.plan.load.shapes import Cancel
from pytest_llmperf.records import Phase

# Streams of a point's seed; 0 (the seed alone) draws arrivals, 1 texts.
_INPUT, _OUTPUT, _ORDER, _PREFIX, _BLOCK = 2, 3, 4, 5, 6
_ENDLESS_REQUESTS = 256
"""A closed loop that goes by time sends so many requests over and over, each time with other marks."""


class BatchPrompt(NamedTuple):
    """A further prompt of the same request; fields as in PlannedRequest."""

    prompt: Content
    prefix: Content
    entry: int | None


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request of a trace. `due_ns` is the offset from the run's start; None in closed loop."""

    index: int
    phase: Phase
    due_ns: int | None
    prompt: Content
    output_tokens: int
    entry: int | None = None
    """Number of the unique prompt that this is one use of; None: used once."""
    prefix: Content = ""
    """Beginning that is shared with other requests, and so carries no mark of a run."""
    input_tokens: int | None = None
    """Tokens of all the request's prompts by the tokenizer; None without one."""
    conversation: int | None = None
    turn: int = 0
    """Number of the turn in its conversation, from 0."""
    batch: tuple[BatchPrompt, ...] = ()
    """Further prompts of the same request (`batch_size`)."""
    think_s: float | None = None
    """Pause before it, from the end of the conversation's last answer; None: the load's `think_time`."""
    cancel_after_s: float | None = None
    """Seconds from sending until the client cancels it; None: never."""
    references: tuple[str, ...] = ()
    """Right answers, where the load scores answers."""

    @property
    def prompts(self) -> int:
        return 1 + len(self.batch)

    @property
    def parts(self) -> tuple[BatchPrompt, ...]:
        """All prompts, the request's first one too."""
        return (BatchPrompt(self.prompt, self.prefix, self.entry), *self.batch)

    @property
    def unit(self) -> int:
        """Number of the conversation, or of the request by itself: a slot takes a whole unit at a time."""
        return self.index if self.conversation is None else self.conversation


@dataclass(frozen=True, slots=True)
class Trace:
    """All that a load sends, with the times.

    `hash` covers everything that is sent and when, except model name, marks of `marked_prompt`, and the keys of a
    load that gate/load_facts compares by themselves (where it is sent to, who counts its tokens).
    """

    warmup: tuple[PlannedRequest, ...]
    requests: tuple[PlannedRequest, ...]
    hash: str
    pieces: tuple[str, ...] | tuple[int, ...] = WORDS
    """Vocabulary of the marks."""
    slots: SlotPlan | None = None
    """A closed loop that goes by time: after the last of `requests` it goes on with the first."""
    notes: tuple[str, ...] = ()
    """Remarks on the load's files: what in them is not sent, or looks wrong."""


class _Turn(NamedTuple):
    prompt: Prompt
    prefix: Content
    output_tokens: int | None
    """None: as the load says."""
    think_s: float | None = None
    """None: as the load says."""
    references: tuple[str, ...] = ()


class _Script(NamedTuple):
    """The turns of one conversation; a single request is a conversation of one turn."""

    entry: int | None
    turns: tuple[_Turn, ...]
    batch: tuple[_Script, ...] = ()
    """Further scripts whose first turns go into the same request."""


def make_trace(point: LoadPoint, key: str) -> Trace:
    """The trace of `point`, from its seed or, without one, from `key` (the point's stable id).

    Reads the load's files (prompts, recorded trace, tokenizer); PlanError says what is wrong with them.
    """
    seed = point.seed if point.seed is not None else int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    writer = make_writer(point, seed)
    text = _prompts_text(point)
    slots = slot_plan(point)
    source = _source(point, text)
    if isinstance(source, RecordedTrace):
        warmup, requests = _replay(point, source, writer, seed)
    else:
        warmup, requests = _composed(point, slots, writer, source, seed)
    if point.prefix_cache == "warm":
        warmup = tuple(replace(request, phase="lead-in", due_ns=None) for request in requests if not request.turn)
    if point.cancel is not None:
        requests = _with_cancelled(requests, point.cancel, seed)
    notes = source.notes if source else ()
    return Trace(warmup, requests, _hash(point, requests, text, slots), writer.pieces, slots, notes)


def file_notes(point: LoadPoint) -> tuple[str, ...]:
    """Remarks on the load's files: what in them is not sent, or looks wrong. Reads them; errors as in make_trace."""
    source = _source(point, _prompts_text(point))
    return source.notes if source else ()


def _prompts_text(point: LoadPoint) -> str:
    return "" if point.prompts is None else read_prompts(point.prompts.file)


def _source(point: LoadPoint, text: str) -> RecordedTrace | Dataset | None:
    """Contents of the load's file; None for synthetic prompts."""
    if point.trace is not None:
        return read_trace(point.trace)
    if point.prompts is None:
        return None
    return parse_dataset(text, point.prompts.kind, point.prompts.file, sessions=point.conversation is not None)


def plain_prompt(request: PlannedRequest) -> Content | list[Content]:
    """The whole prompt as it stands, a list where the request has several."""
    contents = [joined(part.prefix, part.prompt) for part in request.parts]
    return contents if request.batch else contents[0]


def marked_prompt(
    request: PlannedRequest, run: str, pieces: tuple[str, ...] | tuple[int, ...] = WORDS
) -> Content | list[Content]:
    """The whole prompt, the first pieces of its own part made unique to this request (or entry) and `run`.

    A list where the request has several. Without marks the second run of a trace would find its prompts in the server's
    prefix cache and measure no prefill.
    """
    if request.turn:
        return request.prompt  # behind a marked history
    contents = []
    for place, part in enumerate(request.parts):
        used_once = part.entry is None
        base = f"{run}/{place}" if used_once and place else run
        number = int.from_bytes(hashlib.sha256(base.encode()).digest()[:8], "big")
        number += request.index if part.entry is None else part.entry
        contents.append(joined(part.prefix, with_mark(part.prompt, number, pieces)))
    return contents if request.batch else contents[0]


_Requests = tuple[PlannedRequest, ...]


def _composed(
    point: LoadPoint, slots: SlotPlan | None, writer: Writer, data: Dataset | None, seed: int
) -> tuple[_Requests, _Requests]:
    """Warm-up and requests of a load with lengths or prompts of its own."""
    prefixes = make_prefixes(point, writer)
    scripts = _batches(point.batch_size, _scripts(point, writer, _any_of(prefixes, seed), data, seed))
    answers = lengths(point.output_tokens, (seed, _OUTPUT))
    if point.closed_loop:
        conversations = [*_lead_in(point, slots, scripts), *_measured(point, slots, scripts)]
        dues: Iterator[int | None] = itertools.repeat(None)
    else:
        arrivals = open_loop(point, seed)
        conversations = [(phase, next(scripts)) for phase, _ in arrivals]
        dues = iter([due for _, due in arrivals])
    requests = tuple(_planned(point, conversations, answers, dues))
    return tuple(_warmup(point, scripts, answers, prefixes)), requests


def _replay(point: LoadPoint, recorded: RecordedTrace, writer: Writer, seed: int) -> tuple[_Requests, _Requests]:
    """Warm-up and requests of a recorded trace; where blocks have the same number their words are the same too."""
    assert point.trace is not None
    entries, size = recorded.entries, point.trace.block_size
    blocks: dict[int, list[str | int]] = {}
    requests = []
    for index, entry in enumerate(entries):
        for block in entry.blocks:
            if block not in blocks:
                blocks[block] = writer.drawn_from((seed, _BLOCK, block), size)
        shared = list(itertools.chain.from_iterable(blocks[block] for block in entry.blocks))
        requests.append(_replayed(index, entry, _recorded_prompt(writer, entry, shared)))
    first = entries[0]
    warmup = tuple(
        _replayed(index, replace(first, blocks=()), _recorded_prompt(writer, first, ()), "lead-in")
        for index in range(point.warmup_requests)
    )
    return warmup, tuple(requests)


def _recorded_prompt(writer: Writer, entry: TraceEntry, shared: Sequence[str | int]) -> Prompt:
    if entry.text is not None:
        return writer.given(entry.text, "", marked=True)
    return writer.synthetic(entry.input_tokens, "", 0, shared)


def _replayed(index: int, entry: TraceEntry, prompt: Prompt, phase: Phase = "measured") -> PlannedRequest:
    return PlannedRequest(
        index=index,
        phase=phase,
        due_ns=round(entry.due_s * 1e6) * 1000 if phase == "measured" else None,
        prompt=prompt.content,
        output_tokens=entry.output_tokens,
        # Prompts that begin alike on purpose must have the same mark.
        entry=0 if entry.blocks else None,
        input_tokens=prompt.tokens,
    )


def _with_cancelled(requests: _Requests, cancel: Cancel, seed: int) -> _Requests:
    chosen = cancelled(cancel.share, len(requests), seed)
    return tuple(
        replace(request, cancel_after_s=cancel.after) if is_chosen and request.phase == "measured" else request
        for request, is_chosen in zip(requests, chosen, strict=True)
    )


def _any_of(prefixes: Sequence[Content], seed: int) -> Iterator[Content]:
    draws = np.random.PCG64((seed, _PREFIX))
    while True:
        yield prefixes[int(draws.random_raw()) % len(prefixes)]


def _scripts(
    point: LoadPoint, writer: Writer, prefixes: Iterator[Content], data: Dataset | None, seed: int
) -> Iterator[_Script]:
    """One after the other without end: new ones, or those of a pool in turn."""
    if data is None:
        written = _written(point, writer, prefixes, seed)
        if point.dataset_entries is None:
            return (_Script(None, turns) for turns in written)
        pool = list(itertools.islice(written, point.dataset_entries))
        return itertools.cycle(itertools.starmap(_Script, enumerate(pool)))
    dialogues = _chosen(point, data.dialogues, seed)
    entries = enumerate(_from_file(point, writer, prefixes, dialogue) for dialogue in dialogues)
    if point.dataset_entries is None:  # a file's prompt that is used again gets another mark, as any other request
        return itertools.cycle(_Script(None, turns) for _, turns in entries)
    return itertools.cycle(itertools.starmap(_Script, entries))


def _batches(size: int, scripts: Iterator[_Script]) -> Iterator[_Script]:
    """Joins as many scripts as a request has prompts."""
    while True:
        yield next(scripts)._replace(batch=tuple(itertools.islice(scripts, size - 1)))


def _written(point: LoadPoint, writer: Writer, prefixes: Iterator[Content], seed: int) -> Iterator[tuple[_Turn, ...]]:
    assert point.input_tokens is not None
    wanted = lengths(point.input_tokens, (seed, _INPUT))
    turns = (point.conversation.turns if point.conversation else None) or 1
    shared = point.shared_prefix.tokens if point.shared_prefix else 0
    while True:
        prefix = next(prefixes)
        first = _Turn(writer.synthetic(next(wanted), prefix, shared), prefix, None)
        yield (first, *(_Turn(writer.synthetic(next(wanted), "", 0), "", None) for _ in range(1, turns)))


def _chosen(point: LoadPoint, dialogues: Sequence[Dialogue], seed: int) -> list[Dialogue]:
    """All in an order of the seed's, or the first `dataset_entries` of that."""
    asked = point.dataset_entries or len(dialogues)
    if asked > len(dialogues):
        assert point.prompts is not None
        raise PlanError(f"dataset_entries: {asked}; {point.prompts.file} holds {len(dialogues)} prompts")
    order = np.argsort(np.random.PCG64((seed, _ORDER)).random_raw(len(dialogues)), kind="stable")
    return [dialogues[position] for position in order[:asked].tolist()]


def _from_file(point: LoadPoint, writer: Writer, prefixes: Iterator[Content], dialogue: Dialogue) -> tuple[_Turn, ...]:
    limit = 1 if point.conversation is None else point.conversation.turns
    # An answer that is scored may be longer than the right one, and its prompt is sent as it stands.
    scored = point.answers is not None
    count = None if point.tokenizer is None or scored else load_tokenizer(point.tokenizer).count
    turns = []
    for number, given in enumerate(dialogue[:limit]):
        prefix = "" if number else next(prefixes)
        answer = count(given.output) if given.output and count else None
        output = None if point.phase == "prefill" else given.output_tokens or answer
        prompt = writer.given(given.input, prefix, marked=not number and not scored)
        turns.append(_Turn(prompt, prefix, output, given.delay_s, given.references if scored else ()))
    return tuple(turns)


def _lead_in(point: LoadPoint, slots: SlotPlan | None, scripts: Iterator[_Script]) -> Iterator[tuple[Phase, _Script]]:
    """One conversation per slot, of lengths that differ so that the users are not in step afterwards."""
    for slot in range(slots.levels[0].slots if slots else point.concurrency or 0):
        script = next(scripts)
        yield "lead-in", script._replace(turns=script.turns[: 1 + slot % len(script.turns)])


def _measured(point: LoadPoint, slots: SlotPlan | None, scripts: Iterator[_Script]) -> Iterator[tuple[Phase, _Script]]:
    """Yields conversations until they make `requests` turns; the last is cut. A loop by time changes phases later."""
    left = max(_ENDLESS_REQUESTS, slots.most) if slots else point.requests or 0
    while left > 0:
        script = next(scripts)
        yield "measured", script if slots else script._replace(turns=script.turns[:left])
        left -= len(script.turns)


def _planned(
    point: LoadPoint, conversations: Sequence[tuple[Phase, _Script]], answers: Iterator[int], dues: Iterator[int | None]
) -> Iterator[PlannedRequest]:
    indices = itertools.count()
    for number, (phase, script) in enumerate(conversations):
        for turn, current in enumerate(script.turns):
            request = _request(next(indices), phase, next(dues), script, current, next(answers))
            if point.conversation is not None:
                # The server counts the history too, which is not known before.
                request = replace(request, conversation=number, turn=turn, input_tokens=None, think_s=current.think_s)
            yield request


def _request(
    index: int,
    phase: Phase,
    due_ns: int | None,
    script: _Script,
    current: _Turn,
    output_tokens: int,
) -> PlannedRequest:
    batch = [(other.entry, other.turns[0]) for other in script.batch]
    counts = [turn.prompt.tokens for turn in (current, *(turn for _, turn in batch))]
    return PlannedRequest(
        index=index,
        phase=phase,
        due_ns=due_ns,
        prompt=current.prompt.content,
        output_tokens=current.output_tokens or output_tokens,
        entry=script.entry,
        prefix=current.prefix,
        input_tokens=None if None in counts else sum(count or 0 for count in counts),
        batch=tuple(BatchPrompt(turn.prompt.content, turn.prefix, number) for number, turn in batch),
        references=current.references,
    )


def _warmup(
    point: LoadPoint, scripts: Iterator[_Script], answers: Iterator[int], prefixes: Sequence[Content]
) -> Iterator[PlannedRequest]:
    """Single requests; with shared prefixes at least one of each, so that every run finds them in the cache."""
    least = len(prefixes) if point.warmup_requests and prefixes[0] else 0
    for index in range(max(point.warmup_requests, least)):
        script = next(scripts)
        current = script.turns[0]._replace(prefix=prefixes[index % len(prefixes)])
        yield _request(index, "lead-in", None, script, current, next(answers))


def lengths(asked: int | Lengths, seed: tuple[int, int]) -> Iterator[int]:
    """One length per request, without end: a constant, or raw draws from `seed`, the same in every version of numpy."""
    if isinstance(asked, int):
        return itertools.repeat(asked)
    return _drawn(asked, np.random.PCG64(seed))


def _drawn(asked: Lengths, draws: np.random.PCG64) -> Iterator[int]:
    standard = NormalDist()
    while True:
        # In (0, 1): the inverse of the distribution has no value at its ends.
        uniform = ((int(draws.random_raw()) >> 11) + 0.5) * 2.0**-53
        length = round(asked.mean + asked.sd * standard.inv_cdf(uniform))
        yield max(asked.min, length if asked.max is None else min(length, asked.max))


def _hash(point: LoadPoint, requests: _Requests, text: str, slots: SlotPlan | None) -> str:
    digest = hashlib.sha256(text.encode())
    body = ENDPOINTS[point.endpoint].body
    for request in requests:
        sent = body(point, plain_prompt(request), request.output_tokens, model="", every_chunk_usage=False)
        facts: list[object] = [request.phase, request.due_ns, sent]
        if point.conversation is not None:
            facts += [request.conversation, request.turn, point.conversation.think_time]
        digest.update(json.dumps(facts, sort_keys=True).encode())
        if request.cancel_after_s is not None:
            digest.update(f"cancel {request.cancel_after_s!r}".encode())
    # Only where they are used, so that traces without them keep the hash that baselines have stored.
    extras = {
        "slots": astuple(slots) if slots else None,
        "max_in_flight": point.max_in_flight,
        "connection": None if point.connection == "keep-alive" else point.connection,
        "prefix_cache": None if point.prefix_cache == "cold" else point.prefix_cache,
        "marked": None if point.answers is None else False,
    }
    if used := {name: value for name, value in extras.items() if value is not None}:
        digest.update(json.dumps(used).encode())
    return digest.hexdigest()
