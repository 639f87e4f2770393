"""Continuous batching as in vLLM v1, without I/O, clocks or threads: requests in, step plans out.

`schedule()` says what the next step computes, `commit()` takes the tokens it sampled. KV memory is paged; a request
that finds no block preempts the latest one, which later computes its tokens again.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pytest_llmperf.embedded.settings import EngineSettings

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to complete. `max_tokens` already fits into the model's length."""

    id: int
    prompt: tuple[int, ...]
    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """The part of a step for one request: `tokens`, the first of them at position `start`."""

    request: Request
    tokens: tuple[int, ...]
    start: int
    blocks: tuple[int, ...]
    prefill: bool
    samples: bool  # the last of `tokens` is the request's last known one, so the step yields a new one

    @property
    def generated(self) -> int:
        """Output tokens known before this step."""
        return max(0, self.start + len(self.tokens) - len(self.request.prompt))


@dataclass(frozen=True, slots=True)
class StepPlan:
    work: tuple[Work, ...]
    preempted: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(len(work.tokens) for work in self.work)


@dataclass(frozen=True, slots=True)
class Output:
    """One sampled token of one request."""

    request_id: int
    token: int
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    running: int
    waiting: int
    kv_usage: float  # share of the blocks that running requests hold, 0 to 1
    preemptions: int
    prefix_queries: int  # prompt tokens looked up
    prefix_hits: int  # of these, tokens found


class BlockPool:
    """KV blocks with reference counts. A freed block keeps its content until it is the longest unused one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._references = [0] * size
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(size))  # least recently used first
        self._by_hash: dict[int, int] = {}
        self._hash_of: dict[int, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks; the caller has seen that there are enough."""
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._references[block] = 1
            forgotten = self._hash_of.pop(block, None)
            if forgotten is not None:
                del self._by_hash[forgotten]
        return taken

    def find(self, hashes: Sequence[int]) -> list[int]:
        """The cached blocks of the longest known start of a hash chain."""
        found = []
        for digest in hashes:
            block = self._by_hash.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def num_unreferenced(self, blocks: Sequence[int]) -> int:
        return sum(not self._references[block] for block in blocks)

    def share(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            if not self._references[block]:
                del self._free[block]
            self._references[block] += 1

    def remember(self, block: int, digest: int) -> None:
        """Make a full block findable. The first block of a content is kept, later equal ones stay anonymous."""
        if digest not in self._by_hash and block not in self._hash_of:
            self._by_hash[digest] = block
            self._hash_of[block] = digest

    def forget(self) -> None:
        """Make no block findable any more; what requests hold stays theirs."""
        self._by_hash.clear()
        self._hash_of.clear()

    def release(self, blocks: Sequence[int]) -> None:
        """Give back a request's blocks. The last ones are reused first: a longer prefix is shared less often."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if not self._references[block]:
                self._free[block] = None


@dataclass(slots=True, eq=False)
class _Sequence:
    request: Request
    tokens: list[int]
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)  # chain over the full blocks of `tokens`

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)


class Scheduler:
    """First come, first served. All state of the engine that is not the model's lives here."""

    def __init__(self, settings: EngineSettings, eos: int) -> None:
        self._settings = settings
        self._eos = eos
        self._pool = BlockPool(settings.kv_blocks)
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._preemptions = 0
        self._prefix_queries = 0
        self._prefix_hits = 0

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, request: Request) -> None:
        self._waiting.append(_Sequence(request, list(request.prompt)))

    def abort(self, request_id: int) -> None:
        """Forget a request; an id that is already finished is ignored."""
        for sequence in [*self._running, *self._waiting]:
            if sequence.request.id == request_id:
                self._finish(sequence)

    def reset_prefix_cache(self) -> None:
        self._pool.forget()

    def stats(self) -> SchedulerStats:
        return SchedulerStats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_usage=1 - self._pool.num_free / self._pool.size,
            preemptions=self._preemptions,
            prefix_queries=self._prefix_queries,
            prefix_hits=self._prefix_hits,
        )

    def schedule(self) -> StepPlan:
        """Plan one step: the running requests first, oldest first, then as many waiting ones as fit."""
        work, preempted = self._schedule_running()
        if not preempted:  # else the blocks just won would go straight back to the request that lost them
            budget = self._settings.max_num_batched_tokens - sum(len(item.tokens) for item in work)
            work += self._schedule_waiting(budget)
        return StepPlan(tuple(work), tuple(preempted))

    def commit(self, plan: StepPlan, tokens: Mapping[int, int]) -> list[Output]:
        """Append the sampled tokens (request id -> token) and end the requests that are complete."""
        outputs = []
        sequences = {sequence.request.id: sequence for sequence in self._running}
        for work in plan.work:
            sequence = sequences[work.request.id]
            if work.samples:
                outputs.append(self._append(sequence, tokens[work.request.id]))
        return outputs

    def _schedule_running(self) -> tuple[list[Work], list[int]]:
        work: list[Work] = []
        preempted: list[int] = []
        budget = self._settings.max_num_batched_tokens
        index = 0
        while index < len(self._running) and budget:
            sequence = self._running[index]
            count = min(len(sequence.tokens) - sequence.computed, budget)
            while not self._reserve(sequence, count):
                preempted.append(self._preempt_latest())
                if preempted[-1] == sequence.request.id:
                    return work, preempted
            work.append(self._advance(sequence, count))
            budget -= count
            index += 1
        return work, preempted

    def _schedule_waiting(self, budget: int) -> list[Work]:
        work: list[Work] = []
        while self._waiting and budget and len(self._running) < self._settings.max_num_seqs:
            sequence = self._waiting[0]
            cached = self._cached_blocks(sequence)
            computed = len(cached) * self._settings.block_size
            count = len(sequence.tokens) - computed
            if count > budget and not self._settings.enable_chunked_prefill:
                break
            count = min(count, budget)
            if not self._admit(sequence, cached, computed, count):
                break
            self._running.append(self._waiting.popleft())
            work.append(self._advance(sequence, count))
            budget -= count
        return work

    def _cached_blocks(self, sequence: _Sequence) -> list[int]:
        if not self._settings.enable_prefix_caching:
            return []
        # The last token is always computed, even if its block is known: its logits are what the step is for.
        full = (len(sequence.tokens) - 1) // self._settings.block_size
        return self._pool.find(self._hash_chain(sequence, full))

    def _hash_chain(self, sequence: _Sequence, full_blocks: int) -> list[int]:
        size = self._settings.block_size
        for index in range(len(sequence.hashes), full_blocks):
            parent = sequence.hashes[-1] if sequence.hashes else 0
            sequence.hashes.append(hash((parent, *sequence.tokens[index * size : (index + 1) * size])))
        return sequence.hashes[:full_blocks]

    def _admit(self, sequence: _Sequence, cached: list[int], computed: int, count: int) -> bool:
        needed = self._blocks_for(computed + count) - len(cached)
        if needed + self._pool.num_unreferenced(cached) > self._pool.num_free:
            return False
        self._pool.share(cached)
        sequence.blocks = cached + self._pool.allocate(needed)
        sequence.computed = computed
        if self._settings.enable_prefix_caching:
            self._prefix_queries += len(sequence.tokens)
            self._prefix_hits += computed
        return True

    def _reserve(self, sequence: _Sequence, count: int) -> bool:
        needed = self._blocks_for(sequence.computed + count) - len(sequence.blocks)
        if needed > self._pool.num_free:
            return False
        sequence.blocks += self._pool.allocate(needed)
        return True

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._settings.block_size)

    def _advance(self, sequence: _Sequence, count: int) -> Work:
        start, end = sequence.computed, sequence.computed + count
        sequence.computed = end
        if self._settings.enable_prefix_caching:
            self._remember_full_blocks(sequence, start, end)
        return Work(
            request=sequence.request,
            tokens=tuple(sequence.tokens[start:end]),
            start=start,
            blocks=tuple(sequence.blocks),
            prefill=count > 1 or start < len(sequence.request.prompt),
            samples=end == len(sequence.tokens),
        )

    def _remember_full_blocks(self, sequence: _Sequence, start: int, end: int) -> None:
        # Before the step has filled them, as vLLM does: a request planned later in the same step may share them,
        # because a layer writes the keys of the whole batch before it attends.
        first, last = start // self._settings.block_size, end // self._settings.block_size
        if last > first:
            chain = self._hash_chain(sequence, last)
            for index in range(first, last):
                self._pool.remember(sequence.blocks[index], chain[index])

    def _preempt_latest(self) -> int:
        sequence = self._running.pop()
        self._pool.release(sequence.blocks)
        sequence.blocks, sequence.computed = [], 0
        self._waiting.appendleft(sequence)
        self._preemptions += 1
        return sequence.request.id

    def _append(self, sequence: _Sequence, token: int) -> Output:
        sequence.tokens.append(token)
        reason = self._finish_reason(sequence, token)
        if reason:
            self._finish(sequence)
        return Output(sequence.request.id, token, reason)

    def _finish_reason(self, sequence: _Sequence, token: int) -> FinishReason | None:
        request = sequence.request
        if token == self._eos and not request.ignore_eos and sequence.generated > request.min_tokens:
            return "stop"
        return "length" if sequence.generated >= request.max_tokens else None

    def _finish(self, sequence: _Sequence) -> None:
        self._pool.release(sequence.blocks)
        sequence.blocks = []
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
