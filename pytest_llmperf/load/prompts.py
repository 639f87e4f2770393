"""The trace of a load point: every request that a run sends, decided before it starts, the same in every run."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.arrivals import due_offsets_ns
from pytest_llmperf.load.datasets import Dialogue, parse_dataset
from pytest_llmperf.load.endpoints import ENDPOINTS
from pytest_llmperf.load.lengths import lengths
from pytest_llmperf.load.texts import Content, Prompt, Writer, joined, make_prefixes, make_writer, with_mark
from pytest_llmperf.load.tokenizer import load_tokenizer
from pytest_llmperf.plan import LoadPoint
from pytest_llmperf.records import Phase
from pytest_llmperf.words import WORDS

# Streams of a point's seed; 0 (the seed alone) draws arrivals, 1 texts.
_INPUT, _OUTPUT, _ORDER, _PREFIX = 2, 3, 4, 5


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
    """Shared with other requests, so never marked."""
    input_tokens: int | None = None
    """As the tokenizer counts the whole prompt; None where none did."""
    conversation: int | None = None
    turn: int = 0
    """Of a conversation; 0 is its first."""

    @property
    def unit(self) -> int:
        """What a slot takes at a time: the conversation's number, or the request's."""
        return self.index if self.conversation is None else self.conversation


@dataclass(frozen=True, slots=True)
class Trace:
    """`hash` covers everything that is sent and when, except model name and the marks of `marked_prompt`."""

    warmup: tuple[PlannedRequest, ...]
    requests: tuple[PlannedRequest, ...]
    hash: str
    pieces: tuple[str, ...] | tuple[int, ...] = WORDS
    """What marks are made of."""


class _Turn(NamedTuple):
    prompt: Prompt
    prefix: Content
    output_tokens: int | None
    """None: as the load says."""


class _Script(NamedTuple):
    """What one conversation says; a single request is a conversation of one turn."""

    entry: int | None
    turns: tuple[_Turn, ...]


def make_trace(point: LoadPoint, key: str) -> Trace:
    """The trace of `point`, from its seed or, without one, from `key` (the point's stable id).

    Reads the load's prompt file and tokenizer; PlanError says what is wrong with them.
    """
    seed = point.seed if point.seed is not None else int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    writer = make_writer(point, seed)
    text = "" if point.prompts is None else _read(Path(point.prompts.file))
    prefixes = make_prefixes(point, writer)
    scripts = _scripts(point, writer, _any_of(prefixes, seed), text, seed)
    answers = lengths(point.output_tokens, (seed, _OUTPUT))
    conversations = [*_lead_in(point, scripts), *_measured(point, scripts)]
    requests = tuple(_planned(point, conversations, answers, _dues(point, seed)))
    warmup = tuple(_warmup(point, scripts, answers, prefixes))
    return Trace(warmup, requests, _hash(point, requests, text), writer.pieces)


def marked_prompt(request: PlannedRequest, run: str, pieces: tuple[str, ...] | tuple[int, ...] = WORDS) -> Content:
    """The whole prompt, the first pieces of its own part made unique to this request (or entry) and `run`.

    Without it the second run of a trace would find its prompts in the server's prefix cache and measure no prefill.
    """
    if request.turn:
        return request.prompt  # behind a marked history
    number = request.index if request.entry is None else request.entry
    number += int.from_bytes(hashlib.sha256(run.encode()).digest()[:8], "big")
    return joined(request.prefix, with_mark(request.prompt, number, pieces))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot read the prompts: {error}") from error


def _any_of(prefixes: Sequence[Content], seed: int) -> Iterator[Content]:
    draws = np.random.PCG64((seed, _PREFIX))
    while True:
        yield prefixes[int(draws.random_raw()) % len(prefixes)]


def _scripts(point: LoadPoint, writer: Writer, prefixes: Iterator[Content], text: str, seed: int) -> Iterator[_Script]:
    """One after the other without end: new ones, or those of a pool in turn."""
    if point.prompts is None:
        written = _written(point, writer, prefixes, seed)
        if point.dataset_entries is None:
            return (_Script(None, turns) for turns in written)
        pool = list(itertools.islice(written, point.dataset_entries))
        return itertools.cycle(itertools.starmap(_Script, enumerate(pool)))
    dialogues = _chosen(point, parse_dataset(text, point.prompts.kind, point.prompts.file), seed)
    entries = enumerate(_from_file(point, writer, prefixes, dialogue) for dialogue in dialogues)
    if point.dataset_entries is None:  # a file's prompt that is used again gets another mark, as any other request
        return itertools.cycle(_Script(None, turns) for _, turns in entries)
    return itertools.cycle(itertools.starmap(_Script, entries))


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
    count = None if point.tokenizer is None else load_tokenizer(point.tokenizer).count
    turns = []
    for number, (given, answer) in enumerate(dialogue[:limit]):
        prefix = "" if number else next(prefixes)
        output = count(answer) if answer and count else None
        turns.append(_Turn(writer.given(given, prefix, marked=not number), prefix, output))
    return tuple(turns)


def _lead_in(point: LoadPoint, scripts: Iterator[_Script]) -> Iterator[tuple[Phase, _Script]]:
    """One conversation per slot, of lengths that differ so that the users are not in step afterwards."""
    for slot in range(point.concurrency or 0):
        entry, turns = next(scripts)
        yield "lead-in", _Script(entry, turns[: 1 + slot % len(turns)])


def _measured(point: LoadPoint, scripts: Iterator[_Script]) -> Iterator[tuple[Phase, _Script]]:
    """As many conversations as make `requests` turns; the last one is cut."""
    left = point.requests
    while left > 0:
        entry, turns = next(scripts)
        yield "measured", _Script(entry, turns[:left])
        left -= len(turns)


def _dues(point: LoadPoint, seed: int) -> Iterator[int | None]:
    if point.request_rate is None:
        return itertools.repeat(None)
    return iter(due_offsets_ns(point.arrival, point.request_rate, point.requests, seed))


def _planned(
    point: LoadPoint, conversations: Sequence[tuple[Phase, _Script]], answers: Iterator[int], dues: Iterator[int | None]
) -> Iterator[PlannedRequest]:
    indices = itertools.count()
    for number, (phase, script) in enumerate(conversations):
        for turn, said in enumerate(script.turns):
            request = _request(next(indices), phase, next(dues), script.entry, said, next(answers))
            if point.conversation is not None:
                # The server counts the history too, which is not known before.
                request = replace(request, conversation=number, turn=turn, input_tokens=None)
            yield request


def _request(
    index: int, phase: Phase, due_ns: int | None, entry: int | None, said: _Turn, output_tokens: int
) -> PlannedRequest:
    return PlannedRequest(
        index=index,
        phase=phase,
        due_ns=due_ns,
        prompt=said.prompt.content,
        output_tokens=said.output_tokens or output_tokens,
        entry=entry,
        prefix=said.prefix,
        input_tokens=said.prompt.tokens,
    )


def _warmup(
    point: LoadPoint, scripts: Iterator[_Script], answers: Iterator[int], prefixes: Sequence[Content]
) -> Iterator[PlannedRequest]:
    """Single requests; with shared prefixes at least one of each, so that every run finds them in the cache."""
    count = (
        max(point.warmup_requests, len(prefixes)) if point.warmup_requests and prefixes[0] else point.warmup_requests
    )
    for index in range(count):
        entry, turns = next(scripts)
        said = turns[0]._replace(prefix=prefixes[index % len(prefixes)])
        yield _request(index, "lead-in", None, entry, said, next(answers))


def _hash(point: LoadPoint, requests: tuple[PlannedRequest, ...], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    body = ENDPOINTS[point.endpoint].body
    for request in requests:
        content = joined(request.prefix, request.prompt)
        sent = body(point, content, request.output_tokens, model="", every_chunk_usage=False)
        facts: list[object] = [request.phase, request.due_ns, sent]
        if point.conversation is not None:
            facts += [request.conversation, request.turn, point.conversation.think_time]
        digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()
