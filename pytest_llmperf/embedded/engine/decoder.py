"""A small decoder-only transformer in numpy: what the `decoder` engine computes in each step.

RMSNorm, rotary positions, grouped-query attention over a paged KV cache, SwiGLU, tied output head; float32, random
weights from a seed. One call computes a whole batch of prefill chunks and decodes of different lengths.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.embedded.engine import tokenizer
from pytest_llmperf.embedded.engine.scheduler import Request, StepPlan, Work
from pytest_llmperf.embedded.settings import EngineSettings

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

LAYERS = 2
HIDDEN = 128
HEADS = 4
KV_HEADS = 2
HEAD_DIM = 16
MLP = 256
GROUP = HEADS // KV_HEADS
_KV_WIDTH = KV_HEADS * HEAD_DIM
_GREEDY_BELOW = 1e-5  # temperatures that would overflow mean greedy, as in vLLM
_QUERY_TILE = 256  # rows of one attention product in prefill: bounds its memory, and skips most of the masked half


@dataclass(frozen=True, slots=True)
class Layer:
    qkv: Floats
    out: Floats
    gate_up: Floats
    down: Floats


@dataclass(frozen=True, slots=True)
class Weights:
    embedding: Floats
    layers: tuple[Layer, ...]

    @classmethod
    def random(cls, identity: str) -> "Weights":
        """Weights that depend on the identity string alone."""
        rng = np.random.default_rng(zlib.crc32(identity.encode()))

        def matrix(rows: int, columns: int, gain: float = 1.0) -> Floats:
            return rng.standard_normal((rows, columns)).astype(np.float32) * np.float32(gain / rows**0.5)

        layers = tuple(
            Layer(
                qkv=matrix(HIDDEN, HEADS * HEAD_DIM + 2 * _KV_WIDTH),
                out=matrix(HEADS * HEAD_DIM, HIDDEN, gain=4),
                gate_up=matrix(HIDDEN, 2 * MLP),
                down=matrix(MLP, HIDDEN, gain=6),
            )
            for _ in range(LAYERS)
        )
        # Embeddings are small beside what the layers add, or the tied head would repeat its input for ever.
        embedding = rng.standard_normal((tokenizer.VOCAB_SIZE, HIDDEN)).astype(np.float32)
        return cls(embedding * np.float32(0.2), layers)


@dataclass(frozen=True, slots=True)
class _Decodes:
    """Decodes of similar context length, attended in one padded product."""

    rows: Ints
    tables: Ints  # block ids, [request, block], padded with block 0
    lengths: Ints  # context including the new token


@dataclass(frozen=True, slots=True)
class _Prefill:
    rows: slice
    table: Ints
    start: int


@dataclass(frozen=True, slots=True)
class _Batch:
    tokens: Ints
    positions: Ints
    slots: Ints  # where each token's key and value go: block x block size + offset
    sampled: Ints  # rows whose logits are wanted
    decodes: tuple[_Decodes, ...]
    prefills: tuple[_Prefill, ...]


class Decoder:
    """The model with its KV cache. `execute` is the step function, `logits` what a test compares."""

    def __init__(self, settings: EngineSettings) -> None:
        self._block_size = settings.block_size
        self._weights = Weights.random(settings.output_identity)
        self._cos, self._sin = _rotary_table(settings.max_model_len)
        # Zeros cost nothing until they are written: the kernel maps the pages of a large cache one by one.
        self._cache = np.zeros((LAYERS, settings.kv_blocks * settings.block_size, 2, KV_HEADS, HEAD_DIM), np.float32)
        self._unseeded = np.random.default_rng(settings.seed)

    def execute(self, plan: StepPlan, *, after_idle: bool) -> dict[int, int]:
        """Compute one step; the sampled token of every request whose work samples."""
        sampling = [work for work in plan.work if work.samples]
        logits = self.logits(plan)
        best = logits.argmax(axis=1).tolist() if sampling else []
        return {
            work.request.id: self._choose(work, row, token)
            for work, row, token in zip(sampling, logits, best, strict=True)
        }

    def warm_up(self) -> None:
        """Run each path once, so that the first request does not pay for it. Writes to block 0, which is free."""
        request = Request(id=0, prompt=(0, 0), max_tokens=1)
        for tokens, start in (((0, 0), 0), ((0,), 1)):
            work = Work(request, tokens, start, blocks=(0,) * 2, prefill=len(tokens) > 1, samples=True)
            self.execute(StepPlan((work,)), after_idle=True)

    def begin_run(self, index: int) -> None:
        """Runs differ in noise only, and this step has none of its own."""

    def logits(self, plan: StepPlan) -> Floats:
        """Logits, one row per work that samples, in the plan's order. Fills the KV cache."""
        batch = self._batch(plan)
        x = self._weights.embedding[batch.tokens]
        cos, sin = self._cos[batch.positions], self._sin[batch.positions]
        for index, layer in enumerate(self._weights.layers):
            x = x + self._attention(_normalise(x) @ layer.qkv, index, batch, cos, sin) @ layer.out
            x = x + _swiglu(_normalise(x) @ layer.gate_up) @ layer.down
        return np.asarray(_normalise(x[batch.sampled]) @ self._weights.embedding.T)

    def _choose(self, work: Work, logits: Floats, best: int) -> int:
        request = work.request
        if best == tokenizer.EOS and work.generated < request.min_tokens:
            logits = logits.copy()
            logits[tokenizer.EOS] = -np.inf
            best = int(logits.argmax())
        if request.temperature < _GREEDY_BELOW:
            return best
        # The draw depends on the seed and the position only, so neither batching nor preemption changes it.
        rng = self._unseeded
        if request.seed is not None:
            rng = np.random.default_rng([request.seed % 2**64, work.generated])
        return int((logits / request.temperature + rng.gumbel(size=len(logits))).argmax())

    def _batch(self, plan: StepPlan) -> _Batch:
        counts = [len(work.tokens) for work in plan.work]
        ends = np.cumsum(counts)
        positions = np.concatenate([np.arange(work.start, work.start + len(work.tokens)) for work in plan.work])
        tables = [np.array(work.blocks, np.int64) for work in plan.work]
        slots = np.concatenate([self._slots(work, table) for work, table in zip(plan.work, tables, strict=True)])
        prefills, decodes = [], []
        for index, (work, table, end) in enumerate(zip(plan.work, tables, ends.tolist(), strict=True)):
            if len(work.tokens) > 1:
                prefills.append(_Prefill(slice(end - counts[index], end), table, work.start))
            else:
                decodes.append((end - 1, table, work.start + 1))
        return _Batch(
            tokens=np.array([token for work in plan.work for token in work.tokens]),
            positions=positions,
            slots=slots,
            sampled=ends[[index for index, work in enumerate(plan.work) if work.samples]] - 1,
            decodes=tuple(_group_decodes(decodes)),
            prefills=tuple(prefills),
        )

    def _slots(self, work: Work, table: Ints) -> Ints:
        positions = np.arange(work.start, work.start + len(work.tokens))
        return table[positions // self._block_size] * self._block_size + positions % self._block_size

    def _attention(self, qkv: Floats, layer: int, batch: _Batch, cos: Floats, sin: Floats) -> Floats:
        rows = len(qkv)
        heads = qkv.reshape(rows, HEADS + 2 * KV_HEADS, HEAD_DIM)
        rotated = _rotate(heads[:, : HEADS + KV_HEADS], cos, sin)
        queries = rotated[:, :HEADS].reshape(rows, KV_HEADS, GROUP, HEAD_DIM) * np.float32(HEAD_DIM**-0.5)
        cache = self._cache[layer]
        cache[batch.slots, 0] = rotated[:, HEADS:]
        cache[batch.slots, 1] = heads[:, HEADS + KV_HEADS :]
        blocks = cache.reshape(-1, self._block_size * 2 * _KV_WIDTH)
        attended = np.empty((rows, KV_HEADS, GROUP, HEAD_DIM), np.float32)
        for decodes in batch.decodes:
            attended[decodes.rows] = _attend_decodes(queries[decodes.rows], blocks, decodes)
        for prefill in batch.prefills:
            attended[prefill.rows] = _attend_prefill(queries[prefill.rows], blocks, prefill)
        return attended.reshape(rows, HEADS * HEAD_DIM)


def _group_decodes(decodes: Iterable[tuple[int, Ints, int]]) -> Iterable[_Decodes]:
    """Group by the power of two of the block count: padding never more than doubles the work."""
    groups: dict[int, list[tuple[int, Ints, int]]] = {}
    for decode in decodes:
        groups.setdefault(len(decode[1]).bit_length(), []).append(decode)
    for group in groups.values():
        tables = np.zeros((len(group), max(len(table) for _, table, _ in group)), np.int64)
        for index, (_, table, _) in enumerate(group):
            tables[index, : len(table)] = table
        yield _Decodes(np.array([row for row, _, _ in group]), tables, np.array([length for _, _, length in group]))


def _attend_decodes(queries: Floats, blocks: Floats, decodes: _Decodes) -> Floats:
    count = len(queries)
    context = blocks.take(decodes.tables, axis=0).reshape(count, -1, 2, KV_HEADS, HEAD_DIM)
    longest = int(decodes.lengths.max())
    keys = context[:, :longest, 0].transpose(0, 2, 3, 1)
    values = context[:, :longest, 1].transpose(0, 2, 1, 3)
    scores = queries @ keys  # [request, kv head, head of the group, context]
    masked = np.arange(longest) >= decodes.lengths[:, None]
    np.copyto(scores, np.float32(-np.inf), where=masked[:, None, None])
    return np.asarray(_softmax(scores) @ values)


def _attend_prefill(queries: Floats, blocks: Floats, prefill: _Prefill) -> Floats:
    context = blocks.take(prefill.table, axis=0).reshape(-1, 2, KV_HEADS, HEAD_DIM)
    keys, values = context[:, 0].transpose(1, 2, 0), context[:, 1].transpose(1, 0, 2)
    attended = np.empty_like(queries)
    for first in range(0, len(queries), _QUERY_TILE):
        tile = queries[first : first + _QUERY_TILE]
        rows, start = len(tile), prefill.start + first
        end = start + rows
        flat = tile.transpose(1, 2, 0, 3).reshape(KV_HEADS, GROUP * rows, HEAD_DIM)
        scores = (flat @ keys[:, :, :end]).reshape(KV_HEADS, GROUP, rows, end)
        future = np.triu(np.ones((rows, rows), np.bool_), 1)
        np.copyto(scores[..., start:], np.float32(-np.inf), where=future)
        weights = _softmax(scores).reshape(KV_HEADS, GROUP * rows, end)
        result = (weights @ values[:, :end]).reshape(KV_HEADS, GROUP, rows, HEAD_DIM)
        attended[first : first + rows] = result.transpose(2, 0, 1, 3)
    return attended


def _softmax(scores: Floats) -> Floats:
    """Softmax over the last axis, in place."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _normalise(x: Floats) -> Floats:
    return np.asarray(x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(1e-6)))


def _swiglu(gate_up: Floats) -> Floats:
    gate, up = gate_up[:, :MLP], gate_up[:, MLP:]
    # exp of a large negative gate overflows to infinity, whose reciprocal is the right answer, 0.
    with np.errstate(over="ignore"):
        return np.asarray(gate / (1 + np.exp(-gate)) * up)


def _rotary_table(length: int) -> tuple[Floats, Floats]:
    """cos and sin of every position, [position, 1, half a head]."""
    frequencies = 10_000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angles = np.arange(length)[:, None, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotate(heads: Floats, cos: Floats, sin: Floats) -> Floats:
    first, second = heads[..., : HEAD_DIM // 2], heads[..., HEAD_DIM // 2 :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
