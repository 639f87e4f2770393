"""The numpy transformer: batching, chunks, paging and reuse change when things are computed, never what."""

import numpy as np
import pytest

from pytest_llmperf.embedded.engine import decoder, tokenizer
from pytest_llmperf.embedded.engine.decoder import Decoder, Weights
from pytest_llmperf.embedded.engine.scheduler import Request, Scheduler, StepPlan, Work
from pytest_llmperf.embedded.settings import EngineSettings


def reference_logits(tokens: list[int], weights: Weights) -> np.ndarray:
    """The whole sequence at once in float64, written as in a textbook: no cache, no pages, no batch."""

    def normalise(x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)

    def rotate(x):
        half = decoder.HEAD_DIM // 2
        angles = np.arange(len(x))[:, None, None] * 10_000.0 ** (-np.arange(half) / half)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1)

    x = weights.embedding[tokens].astype(np.float64)
    mask = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
    for layer in weights.layers:
        heads = (normalise(x) @ layer.qkv).reshape(len(x), -1, decoder.HEAD_DIM)
        queries, keys, values = np.split(heads, [decoder.HEADS, decoder.HEADS + decoder.KV_HEADS], axis=1)
        queries, keys = rotate(queries), rotate(keys)
        attended = []
        for head in range(decoder.HEADS):
            shared = head // decoder.GROUP
            scores = queries[:, head] @ keys[:, shared].T / decoder.HEAD_DIM**0.5 + mask
            weight = np.exp(scores - scores.max(-1, keepdims=True))
            attended.append(weight / weight.sum(-1, keepdims=True) @ values[:, shared])
        x = x + np.concatenate(attended, -1) @ layer.out
        gate, up = np.split(normalise(x) @ layer.gate_up, 2, axis=1)
        x = x + gate / (1 + np.exp(-gate)) * up @ layer.down
    return normalise(x) @ weights.embedding.T


def prompt(seed: int, length: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, tokenizer.VOCAB_SIZE, length).tolist())


class RecordingDecoder(Decoder):
    """Keeps the logits of each sampled token."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self.recorded: dict[int, list[np.ndarray]] = {}

    def logits(self, plan: StepPlan) -> np.ndarray:
        rows = super().logits(plan)
        for work, row in zip([work for work in plan.work if work.samples], rows, strict=True):
            self.recorded.setdefault(work.request.id, []).append(row)
        return rows


def generate(
    settings: EngineSettings, requests: list[Request]
) -> tuple[dict[int, list[int]], dict[int, list[np.ndarray]]]:
    """Tokens and logits of every request, through the scheduler."""
    model, scheduler = RecordingDecoder(settings), Scheduler(settings, tokenizer.EOS)
    tokens = {request.id: [] for request in requests}
    for request in requests:
        scheduler.add(request)
    while scheduler.has_work:
        plan = scheduler.schedule()
        for output in scheduler.commit(plan, model.execute(plan, after_idle=False)):
            tokens[output.request_id].append(output.token)
    return tokens, model.recorded


@pytest.mark.parametrize(
    "settings",
    [
        EngineSettings(max_num_batched_tokens=48, max_num_seqs=4, block_size=4, max_model_len=512),
        EngineSettings(max_num_batched_tokens=2048, max_num_seqs=8, max_model_len=512),
        EngineSettings(max_num_batched_tokens=64, max_num_seqs=4, block_size=16, max_model_len=512, num_kv_blocks=32),
        EngineSettings(max_num_batched_tokens=512, max_num_seqs=3, max_model_len=512, enable_chunked_prefill=False),
    ],
    ids=["small-chunks", "one-batch", "preemption", "whole-prompts"],
)
def test_logits_equal_those_of_a_plain_forward_pass(settings):
    lengths = [1, 5, 300, 17, 64, 130]
    requests = [Request(i, prompt(i, length), 6, ignore_eos=True) for i, length in enumerate(lengths)]
    tokens, logits = generate(settings, requests)
    weights = Weights.random(settings.output_identity)
    for request in requests:
        sequence = [*request.prompt, *tokens[request.id]]
        expected = reference_logits(sequence, weights)[len(request.prompt) - 1 : -1]
        np.testing.assert_allclose(np.array(logits[request.id]), expected, rtol=2e-3, atol=2e-3)


def test_a_reused_prefix_gives_the_same_tokens():
    shared = prompt(1, 100)
    requests = [Request(i, shared + prompt(i, 10), 8, ignore_eos=True) for i in range(6)]
    cached = EngineSettings(max_num_seqs=2, max_model_len=256)
    plain = EngineSettings(max_num_seqs=2, max_model_len=256, enable_prefix_caching=False)
    assert generate(cached, requests)[0] == generate(plain, requests)[0]


def test_a_seeded_sample_does_not_depend_on_its_neighbours():
    settings = EngineSettings(max_model_len=128)
    sampled = Request(0, prompt(1, 20), 12, ignore_eos=True, temperature=1.0, seed=7)
    others = [Request(i, prompt(i, 9), 5, temperature=1.0) for i in (1, 2)]
    alone, _ = generate(settings, [sampled])
    together, _ = generate(settings, [*others, sampled])
    reseeded, _ = generate(settings, [Request(0, sampled.prompt, 12, ignore_eos=True, temperature=1.0, seed=8)])
    assert together[0] == alone[0]
    assert reseeded[0] != alone[0]


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"kv_cache_dtype": "fp8"}, {"quantization": "fp8"}, {"dtype": "bfloat16"}]
)
def test_what_changes_outputs_in_vllm_changes_them_here(changed):
    request = Request(0, prompt(1, 20), 8, ignore_eos=True)
    same, _ = generate(EngineSettings(max_model_len=64, max_num_seqs=1), [request])
    default, _ = generate(EngineSettings(max_model_len=64), [request])
    other, _ = generate(EngineSettings(max_model_len=64, **changed), [request])
    assert default == same
    assert other != default


def test_end_of_text_is_not_sampled_before_min_tokens(monkeypatch):
    model = Decoder(EngineSettings(max_model_len=64))
    logits = np.zeros((1, tokenizer.VOCAB_SIZE), np.float32)
    logits[0, tokenizer.EOS], logits[0, 5] = 2, 1
    monkeypatch.setattr(model, "logits", lambda plan: logits)

    def sample(generated: int) -> int:
        request = Request(0, (1,), 10, min_tokens=2)
        work = Work(request, (0,), generated, (0,), prefill=False, samples=True)
        return model.execute(StepPlan((work,)), after_idle=False)[0]

    assert [sample(generated) for generated in range(4)] == [5, 5, tokenizer.EOS, tokenizer.EOS]


def test_random_weights_do_not_repeat_one_word():
    tokens, _ = generate(EngineSettings(max_model_len=256), [Request(0, prompt(3, 20), 100, ignore_eos=True)])
    assert len(set(tokens[0])) > 10
