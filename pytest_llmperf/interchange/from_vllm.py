"""The result of `vllm bench serve`: `--save-result`, and with its requests `--save-detailed`. Pure.

Checked against files of vLLM 0.32. vLLM counts every chunk with `choices`: on a chat endpoint the first one mostly has
a role and no token, so that its times to the first token are not ours. Where the file has the requests, that chunk is
told by their number, and taken off.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pytest_llmperf.interchange.imported import (
    CHUNK_GAPS,
    NUMBER,
    RATES,
    Imported,
    ImportedPoint,
    ImportFileError,
    because,
    in_order,
    optional,
    pick,
)
from pytest_llmperf.interchange.statistics import Figures, statistics
from pytest_llmperf.records import RequestRecord

_TOKEN_TIMES = ("ttft", "service_ttft", "itl", "tpot", "prefill_throughput_per_user")
_LISTS = ("ttfts", "itls", "output_lens", "start_times", "errors")
_RATES = {
    "request_throughput": "requests/sec",
    "output_throughput": "tokens/sec",
    "total_token_throughput": "tokens/sec",
    "duration": "sec",
    "completed": "count",
    "failed": "count",
}
_SUMMARY = "the file has no single requests (vllm bench serve --save-detailed writes them)"
_ROLE = "vLLM's first chunk may be one with a role and no token, and the file does not say"


def vllm_result(document: Mapping[str, Any], name: str) -> Imported:
    """Of `--save-result`, as runs where `--save-detailed` was given too."""
    detailed = all(isinstance(document.get(key), list) for key in _LISTS)
    metrics = _metrics(document)
    point = _detailed(document, metrics, name) if detailed else _summary(document, metrics, name)
    return Imported("vllm", None, optional(document, "model_id"), (point,))


def _load(document: Mapping[str, Any]) -> dict[str, Any]:
    """A rate of "inf" sends as soon as a slot is free: a closed loop, of all prompts where there is no limit."""
    rate, slots = document.get("request_rate"), document.get("max_concurrency")
    open_loop = isinstance(rate, int | float)
    return {
        "request_rate": float(rate) if isinstance(rate, int | float) else None,
        "concurrency": None if open_loop else slots or document.get("num_prompts"),
    }


def _is_chat(document: Mapping[str, Any]) -> bool:
    return "chat" in str(document.get("backend") or document.get("endpoint_type") or "")


def _summary(document: Mapping[str, Any], metrics: Figures, name: str) -> ImportedPoint:
    chat = _is_chat(document)
    names = {"e2e": "e2el_ms"} if chat else {"ttft": "ttft_ms", "itl": "tpot_ms", "tpot": "tpot_ms", "icl": "itl_ms"}
    ok = int(pick(document, "completed", kind=NUMBER, where=name))
    return ImportedPoint(
        metrics=metrics,
        **_load(document),
        known=statistics(metrics, {**names, "e2e": "e2el_ms"}, ok, name),
        ok=ok,
        failed=int(document.get("failed") or 0),
        unknown={
            **because(f"{_SUMMARY}; vLLM's own rates include ramp-up and drain", *RATES),
            **(because(f"{_ROLE}, and {_SUMMARY}", *_TOKEN_TIMES, "ttst", "icl") if chat else {}),
        },
    )


def _detailed(document: Mapping[str, Any], metrics: Figures, name: str) -> ImportedPoint:
    lengths = {key: len(document[key]) for key in _LISTS}
    if len({*lengths.values()}) > 1:
        raise ImportFileError(f"{name}: its lists of requests are of unequal length: {lengths}")
    begun_ns = _begun_ns(document, name)
    own = str(document.get("label") or "").startswith("pytest-llmperf")
    rows = [_Row(document, place, begun_ns, f"{name}: request {place}", own) for place in range(lengths["ttfts"])]
    unsure = sum(row.tokenless is None for row in rows)
    records = [row.record() for row in rows]
    roles = sum(bool(row.tokenless) for row in rows)
    return ImportedPoint(
        metrics=metrics,
        **_load(document),
        runs=tuple(tuple(in_order(run)) for run in _by_run(records, document)),
        unknown={
            **because("vLLM does not tell reasoning from answer", "ttfo"),
            **because("vLLM's file holds no time after the last chunk", "concurrency_mean"),
            **({} if own else because("vLLM counts prompts without the chat template", "input_tokens")),
            **(because(f"{_ROLE} of {unsure} requests", *_TOKEN_TIMES, *CHUNK_GAPS) if unsure else {}),
        },
        notes=(f"first chunks without a token were taken off {roles} of {len(rows)} requests",) if roles else (),
    )


def _by_run(records: Sequence[RequestRecord], document: Mapping[str, Any]) -> list[list[RequestRecord]]:
    """Our own exports say how many requests each run has; vLLM's hold one run."""
    rest = iter(records)
    counts = document.get("llmperf_runs") or [len(records)]
    return [list(itertools.islice(rest, count)) for count in counts]


def _begun_ns(document: Mapping[str, Any], name: str) -> int:
    """`start_times` are of a clock without a date; the first was about when the file says that it was written."""
    text = pick(document, "date", kind=str, where=name)
    try:
        return int(datetime.strptime(text, "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()) * 10**9
    except ValueError as error:
        raise ImportFileError(f"{name}: date is {text!r}, not of the form 20251231-235959") from error


class _Row:
    """One request, of the lists of the file."""

    def __init__(self, document: Mapping[str, Any], place: int, begun_ns: int, where: str, own: bool) -> None:
        self.error = pick(document, "errors", place, kind=str, where=where) or None
        self.tokens = pick(document, "output_lens", place, kind=int, where=where)
        ttft = pick(document, "ttfts", place, kind=NUMBER, where=where)
        gaps = pick(document, "itls", place, kind=list, where=where)
        start = pick(document, "start_times", place, kind=NUMBER, where=where) - min(document["start_times"])
        self.sent_ns = begun_ns + round(start * 1e9)
        waits = itertools.accumulate(gaps, initial=ttft) if ttft else ()
        self.seen = [self.sent_ns + round(wait * 1e9) for wait in waits]
        self.tokenless = self._tokenless(_is_chat(document))
        self.prompt = optional(document, "input_lens", place) if own else None
        self.end_ns = self.seen[-1] if self.seen else self.sent_ns

    def _tokenless(self, chat: bool) -> int | None:
        """Chunks before the first token; None where that cannot be told, because chunks hold several tokens."""
        surplus = len(self.seen) - self.tokens
        if self.error is not None or surplus == 0:
            return 0
        if chat:
            return surplus if surplus == 1 else None
        return 0 if surplus < 0 else None

    def record(self) -> RequestRecord:
        chunks = tuple(self.seen[self.tokenless or 0 :]) if self.error is None else ()
        return RequestRecord(
            index=0,
            phase="measured",
            request_id="",
            due_ns=None,
            sent_ns=self.sent_ns,
            chunk_ns=chunks,
            chunk_tokens=(1,) * len(chunks) if len(chunks) == self.tokens else None,
            first_output_ns=None,
            end_ns=self.end_ns,
            input_tokens=self.prompt,
            output_tokens=self.tokens if self.error is None else None,
            requested_output_tokens=0,
            token_source=None,
            finish_reason=None,
            status=None,
            error=self.error,
            coalesced_chunks=0,
            tokenless_ns=tuple(self.seen[: self.tokenless or 0]),
        )


def _metrics(document: Mapping[str, Any]) -> dict[str, dict[str, float | str]]:
    latencies = {f"{name}_ms": _latency(document, name) for name in ("ttft", "tpot", "itl", "e2el")}
    rates: dict[str, dict[str, float | str]] = {
        name: {"unit": unit, "avg": document[name]} for name, unit in _RATES.items() if name in document
    }
    return {n: v for n, v in latencies.items() if len(v) > 1} | rates


def _latency(document: Mapping[str, Any], name: str) -> dict[str, float | str]:
    stats = {key.removesuffix(f"_{name}_ms"): value for key, value in document.items() if key.endswith(f"_{name}_ms")}
    renamed = {"mean": "avg", "median": "p50"}
    return {"unit": "ms", **{renamed.get(stat, stat): value for stat, value in stats.items()}}
