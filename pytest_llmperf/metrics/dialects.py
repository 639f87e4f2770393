"""The same records under other tools' definitions and names: pure functions, formulas in docs/metrics.md.

Every tool counts from the moment a request is sent, and counts every request of the run: none has a lead-in, so ours is
part of the load as it would have been part of theirs. Token counts are the server's in every dialect. Nothing here is
gated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pytest_llmperf.definitions import PERCENTILES
from pytest_llmperf.formulas.pace import complete_mean
from pytest_llmperf.metrics.summary import Distribution, distribution, rounded
from pytest_llmperf.records import RequestRecord, Run

_MS = 1e6
_S = 1e9
_SLOWEST = 0.05

Weighted = tuple[float, float]
"""A value and its weight."""


@dataclass(frozen=True, slots=True)
class _Report:
    """The report of a tool on one run: samples and single numbers, by the tool's name and with its unit."""

    samples: Mapping[str, tuple[str, list[float]]] = field(default_factory=dict)
    weighted: Mapping[str, tuple[str, list[Weighted]]] = field(default_factory=dict)
    numbers: Mapping[str, tuple[str, float | None]] = field(default_factory=dict)


def dialect_metrics(name: str, runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """`{metric: {"unit", "mean", …, "p99", "n"}}`, or `{"unit", "value"}` for what is one number per run.

    Several runs: samples are pooled, numbers averaged. None where there is no value. KeyError: no such dialect.
    """
    # None of these tools breaks requests off, so they have no word for one.
    kept = (replace(run, records=tuple(record for record in run.records if not record.cancelled)) for run in runs)
    reports = list(map(DIALECTS[name], kept))
    metrics: dict[str, dict[str, Any]] = {}
    for report in reports[:1]:  # every run's has the same metrics
        for metric, (unit, _) in report.samples.items():
            pooled = [value for other in reports for value in other.samples[metric][1]]
            metrics[metric] = {"unit": unit, **distribution(pooled).as_dict()}
        for metric, (unit, _) in report.weighted.items():
            pairs = [pair for other in reports for pair in other.weighted[metric][1]]
            metrics[metric] = {"unit": unit, **weighted_distribution(pairs).as_dict()}
        for metric, (unit, _) in report.numbers.items():
            mean = complete_mean(other.numbers[metric][1] for other in reports)
            metrics[metric] = {"unit": unit, "value": rounded(mean)}
    return metrics


def weighted_distribution(pairs: Sequence[Weighted]) -> Distribution:
    """GuideLLM's statistics: the percentile is the first value whose share of the weight reaches it (nearest rank).

    A value without weight is left out; n counts the others.
    """
    kept = sorted((value, weight) for value, weight in pairs if weight > 0)
    if not kept:
        return distribution([])
    values, weights = np.array(kept).T
    shares = weights / weights.sum()
    mean = float((values * shares).sum())
    reached = np.cumsum(shares)
    # The sum of shares may miss 1 by a rounding error; the last value is then the answer all the same.
    ranks = [min(int(np.searchsorted(reached, p / 100 - 1e-12)), len(kept) - 1) for p in PERCENTILES]
    return Distribution(
        n=len(kept),
        mean=mean,
        std=float(np.sqrt(((values - mean) ** 2 * shares).sum())),
        min=float(values[0]),
        max=float(values[-1]),
        percentiles=tuple(float(values[rank]) for rank in ranks),
    )


def _good(run: Run) -> list[RequestRecord]:
    return [record for record in run.records if record.ok]


def _sent(record: RequestRecord) -> int:
    assert record.sent_ns is not None, "a request that succeeded was sent"
    return record.sent_ns


def _tokens(record: RequestRecord) -> int:
    return record.output_tokens or 0


def _total(records: Sequence[RequestRecord]) -> tuple[int, int]:
    """Prompt and output tokens."""
    return sum(record.input_tokens or 0 for record in records), sum(map(_tokens, records))


def _per_s(amount: float, duration_ns: int) -> float | None:
    return amount / duration_ns * _S if duration_ns > 0 else None


def _with_text(record: RequestRecord) -> list[int]:
    """Times of the chunks with text of any kind."""
    textless = set(record.textless_chunks)
    return [moment for index, moment in enumerate(record.chunk_ns) if index not in textless]


def with_answer(record: RequestRecord) -> list[int]:
    """Returns the times of the chunks with text that is no reasoning; none of an answer without any."""
    first = record.first_output_ns
    return [moment for moment in _with_text(record) if first is not None and moment >= first]


def _vllm(run: Run) -> _Report:
    """`vllm bench serve`: a chunk is whatever has `choices`, so a role-only one ends the time to first token.

    An answer without any chunk has failed there.
    """
    chunked = ((record, sorted((*record.chunk_ns, *record.tokenless_ns))) for record in _good(run))
    pairs = [(record, seen) for record, seen in chunked if seen]
    good, chunks = [record for record, _ in pairs], [seen for _, seen in pairs]
    several = [(record, seen) for record, seen in pairs if _tokens(record) > 1]
    duration_ns = run.ended_ns - run.started_ns
    prompt, output = _total(good)
    return _Report(
        samples={
            "ttft_ms": ("ms", [(seen[0] - _sent(record)) / _MS for record, seen in pairs]),
            "tpot_ms": ("ms", [(seen[-1] - seen[0]) / (_tokens(record) - 1) / _MS for record, seen in several]),
            "itl_ms": ("ms", [(b - a) / _MS for seen in chunks for a, b in itertools.pairwise(seen)]),
            "e2el_ms": ("ms", [(seen[-1] - _sent(record)) / _MS for record, seen in pairs]),
        },
        numbers={
            "completed": ("requests", len(good)),
            "failed": ("requests", len(run.records) - len(good)),
            "duration": ("s", duration_ns / _S),
            "request_throughput": ("req/s", _per_s(len(good), duration_ns)),
            "output_throughput": ("tok/s", _per_s(output, duration_ns)),
            "total_token_throughput": ("tok/s", _per_s(prompt + output, duration_ns)),
        },
    )


def _triton_samples(
    records: Sequence[tuple[RequestRecord, list[int]]],
) -> dict[str, tuple[str, list[float]]]:
    """The names and formulas that GenAI-Perf and AIPerf share; they differ in the chunks that count."""
    several = [(record, seen) for record, seen in records if _tokens(record) > 1]
    gaps = [round((seen[-1] - seen[0]) / (_tokens(record) - 1)) for record, seen in several]
    return {
        "time_to_first_token": ("ms", [(seen[0] - _sent(record)) / _MS for record, seen in records]),
        "time_to_second_token": ("ms", [(seen[1] - seen[0]) / _MS for _, seen in records if len(seen) > 1]),
        "request_latency": ("ms", [(seen[-1] - _sent(record)) / _MS for record, seen in records]),
        "inter_token_latency": ("ms", [gap / _MS for gap in gaps]),
        "output_token_throughput_per_user": ("tok/s/user", [_S / gap for gap in gaps if gap]),
        "output_sequence_length": ("tokens", [float(_tokens(record)) for record, _ in records]),
        "input_sequence_length": ("tokens", [float(r.input_tokens) for r, _ in records if r.input_tokens is not None]),
    }


def _span_ns(records: Sequence[tuple[RequestRecord, list[int]]]) -> int:
    """Nanoseconds from the first request to the last response."""
    if not records:
        return 0
    return max(seen[-1] for _, seen in records) - min(_sent(record) for record, _ in records)


def _genai_perf(run: Run) -> _Report:
    """GenAI-Perf: chunks with text that is no reasoning; failed requests count in the request throughput."""
    answered = [(record, seen) for record in _good(run) if (seen := with_answer(record))]
    span_ns = _span_ns(answered)
    _, output = _total([record for record, _ in answered])
    return _Report(
        samples=_triton_samples(answered),
        numbers={
            "output_token_throughput": ("tok/s", _per_s(output, span_ns)),
            "request_throughput": ("req/s", _per_s(len(run.records), span_ns)),
            "request_count": ("requests", len(run.records)),
        },
    )


def _aiperf(run: Run) -> _Report:
    """AIPerf: chunks with text, reasoning too; failed requests are counted apart."""
    answered = [(record, seen) for record in _good(run) if (seen := _with_text(record))]
    span_ns = _span_ns(answered)
    good = [record for record, _ in answered]
    prompt, output = _total(good)
    failed = len(run.records) - len(answered)
    first_answer = [(record, seen[0]) for record, _ in answered if (seen := with_answer(record))]
    prefill = [(record.input_tokens, seen[0] - _sent(record)) for record, seen in answered]
    by_usage = [record for record in good if record.token_source == "usage"]
    prompts = [
        float(r.input_tokens) for r in good if r.input_tokens is not None and r.input_tokens_source != "tokenizer"
    ]
    own = {
        "usage_prompt_tokens": ("tokens", prompts),
        "usage_completion_tokens": ("tokens", [float(_tokens(record)) for record in by_usage]),
        "decode_duration": ("ms", [(seen[-1] - seen[0]) / _MS for record, seen in answered if _tokens(record) > 1]),
        "time_to_first_output_token": ("ms", [(moment - _sent(record)) / _MS for record, moment in first_answer]),
        "inter_chunk_latency": ("ms", [(b - a) / _MS for _, seen in answered for a, b in itertools.pairwise(seen)]),
        "prefill_throughput_per_user": ("tok/s/user", [n / ns * _S for n, ns in prefill if n is not None and ns > 0]),
        "e2e_output_token_throughput": (
            "tok/s/user",
            [_tokens(record) / (seen[-1] - _sent(record)) * _S for record, seen in answered],
        ),
    }
    return _Report(
        samples=_triton_samples(answered) | own,
        numbers={
            "benchmark_duration": ("s", span_ns / _S if answered else None),
            "output_token_throughput": ("tok/s", _per_s(output, span_ns)),
            "input_token_throughput": ("tok/s", _per_s(prompt, span_ns)),
            "total_token_throughput": ("tok/s", _per_s(prompt + output, span_ns)),
            "request_throughput": ("req/s", _per_s(len(answered), span_ns)),
            "request_count": ("requests", len(answered)),
            "error_request_count": ("requests", failed),
            "completed_request_count": ("requests", len(run.records)),
            "request_error_rate": ("%", 100 * failed / len(run.records) if run.records else None),
            "total_isl": ("tokens", prompt),
            "total_osl": ("tokens", output),
        },
    )


def _guidellm(run: Run) -> _Report:
    """GuideLLM: latency to the end of the stream; time per output token holds the first one; means weigh tokens."""
    answered = [(record, seen) for record in _good(run) if (seen := _with_text(record))]
    good = [record for record, _ in answered]
    sent = [record.sent_ns for record in run.records if record.sent_ns is not None]
    window_ns = max(record.end_ns for record in run.records) - min(sent) if good else 0
    prompt, output = _total(good)
    once = {
        "time_to_first_token_ms": ("ms", [(seen[0] - _sent(record)) / _MS for record, seen in answered]),
        "request_latency": ("s", [(record.end_ns - _sent(record)) / _S for record in good]),
        "prompt_token_count": ("tokens", [float(r.input_tokens) for r in good if r.input_tokens is not None]),
        "output_token_count": ("tokens", [float(_tokens(record)) for record in good]),
    }
    by_token = {
        "time_per_output_token_ms": [
            ((seen[-1] - _sent(record)) / _tokens(record) / _MS, float(_tokens(record)))
            for record, seen in answered
            if _tokens(record)
        ],
        "inter_token_latency_ms": [
            ((seen[-1] - seen[0]) / (_tokens(record) - 1) / _MS, _tokens(record) - 1.0)
            for record, seen in answered
            if _tokens(record) > 1
        ],
    }
    return _Report(
        weighted={name: (unit, [(value, 1.0) for value in values]) for name, (unit, values) in once.items()}
        | {name: ("ms", pairs) for name, pairs in by_token.items()},
        numbers={
            "requests_per_second": ("req/s", _per_s(len(good), window_ns)),
            "request_concurrency": ("requests", _per_s(sum(r.end_ns - _sent(r) for r in good) / _S, window_ns)),
            "prompt_tokens_per_second": ("tok/s", _per_s(prompt, window_ns)),
            "output_tokens_per_second": ("tok/s", _per_s(output, window_ns)),
            "tokens_per_second": ("tok/s", _per_s(prompt + output, window_ns)),
            "successful": ("requests", len(good)),
            "errored": ("requests", len(run.records) - len(good)),
        },
    )


def _compressa(run: Run) -> _Report:
    """compressa-perf: single numbers in seconds; TPOT is all latency over all tokens, so it holds the first token."""
    good = _good(run)
    latencies = [(record.end_ns - _sent(record)) / _S for record in good]
    answers = [with_answer(record) for record in good]
    ttfts = [(seen[0] - _sent(record)) / _S if seen else 0.0 for record, seen in zip(good, answers, strict=True)]
    start, end = min(map(_sent, good), default=0), max((record.end_ns for record in good), default=0)
    prompt, output, failed = *_total(good), len(run.records) - len(good)
    numbers: dict[str, tuple[str, float | None]] = {
        **_three("TTFT", ttfts),
        **_three("LATENCY", latencies),
        "TPOT": ("s", sum(latencies) / output if output else None),
        "THROUGHPUT": ("tok/s", _per_s(prompt + output, end - start)),
        "THROUGHPUT_INPUT_TOKENS": ("tok/s", _per_s(prompt, end - start)),
        "THROUGHPUT_OUTPUT_TOKENS": ("tok/s", _per_s(output, end - start)),
        "RPS": ("req/s", _per_s(len(good), end - start)),
        **{
            f"LONGER_THAN_{limit}_LATENCY": ("requests", sum(latency > limit for latency in latencies))
            for limit in (60, 120, 180)
        },
        "FAILED_REQUESTS": ("requests", failed),
        "FAILED_REQUESTS_PER_HOUR": (
            "req/h",
            3600 * rate if (rate := _per_s(failed, end - start)) is not None else None,
        ),
    }
    return _Report(numbers=numbers)


def _three(name: str, values: Sequence[float]) -> dict[str, tuple[str, float | None]]:
    """Mean, 95th percentile (linear) and mean of the slowest 5 %."""
    whole, slowest = distribution(values), sorted(values)[int((1 - _SLOWEST) * len(values)) :]
    return {
        name: ("s", whole.mean),
        f"{name}_95": ("s", whole.stat("p95")),
        f"TOP_5_{name}": ("s", distribution(slowest).mean),
    }


DIALECTS: Mapping[str, Callable[[Run], _Report]] = {
    "vllm": _vllm,
    "genai-perf": _genai_perf,
    "aiperf": _aiperf,
    "guidellm": _guidellm,
    "compressa": _compressa,
}
