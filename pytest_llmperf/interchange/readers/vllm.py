"""The result of `vllm bench serve`: `--save-result`, and with its requests `--save-detailed`. Pure.

Checked against files of vLLM 0.32 and the keys of 0.6 to 0.11. vLLM counts every chunk with `choices`: on a chat
endpoint the first one mostly has a role and no token, so that its times to the first token are not ours. Where the file
has the requests, that chunk is known by their number, and taken off.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pytest_llmperf.interchange.readers.shared.fields import (
    NUMBER,
    ImportFileError,
    check_total,
    level,
    pick,
    pick_list,
    pick_optional,
    text_at,
)
from pytest_llmperf.interchange.readers.shared.imported import Imported, ImportedPoint, in_order
from pytest_llmperf.interchange.readers.shared.request_lists import (
    ListedRequest,
    check_latencies,
    check_rows,
    has_lists,
    latencies,
    rate_notes,
    rates,
    record,
    rows,
)
from pytest_llmperf.interchange.readers.shared.statistics import Figures, statistics
from pytest_llmperf.interchange.readers.shared.unknown import CHUNK_GAPS, RATES, because
from pytest_llmperf.records import RequestRecord

_MARKS = {"date", "num_prompts", "request_rate", "duration", "completed", "request_throughput"}
_TOKEN_TIMES = ("ttft", "service_ttft", "itl", "tpot", "prefill_throughput_per_user")
_RATES = {
    "request_throughput": "requests/sec",
    "request_goodput": "requests/sec",
    "output_throughput": "tokens/sec",
    "total_token_throughput": "tokens/sec",
    "duration": "sec",
    "completed": "count",
    "failed": "count",
}
_SUMMARY = "the file has no single requests (vllm bench serve --save-detailed writes them)"
_ROLE = "vLLM's first chunk may be one with a role and no token, and the file does not say"
_NO_STARTS = "the file does not say when requests were sent, as newer ones of vLLM do"


def is_vllm_result(document: Mapping[str, Any]) -> bool:
    """True if a document has the keys that vLLM writes into every result, and only vLLM."""
    return document.keys() >= _MARKS and ("backend" in document or "endpoint_type" in document)


def vllm_result(document: Mapping[str, Any], name: str) -> Imported:
    """A run of `--save-result`, with its requests where `--save-detailed` was given too. ImportFileError where the
    totals are not what the file holds."""
    if "total_output_tokens" not in document:
        raise ImportFileError(f"{name}: a run of vllm bench serve without output tokens, as that of an embedding model")
    metrics = latencies(document, ("ttft", "tpot", "itl", "e2el"), name) | rates(document, _RATES, name)
    read = _detailed if has_lists(document) else _summary
    point = read(document, metrics, name)
    # Ours hold several runs: their rates are means, and their duration is a sum.
    notes = () if "llmperf_runs" in document else rate_notes(document, name)
    return Imported("vllm", None, text_at(document, "model_id"), (replace(point, notes=(*point.notes, *notes)),))


def _load(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A rate of "inf" sends as soon as a slot is free: a closed loop, of all prompts where there is no limit."""
    strategy = document.get("ramp_up_strategy")
    if strategy is not None or document.get("rps_change_events"):
        begin, end = (document.get(f"ramp_up_{end}_rps", "?") for end in ("start", "end"))
        return {"shape": f"{strategy or ''} ramp from {begin} to {end} req/s".strip()}
    slots = level(document, "max_concurrency", kind=int, where=name)
    if document["request_rate"] != "inf":
        rate = float(level(document, "request_rate", kind=NUMBER, where=name) or 0) or None
        return {"request_rate": rate, "max_in_flight": slots if rate else None}
    return {"concurrency": slots or level(document, "num_prompts", kind=int, where=name)}


def _is_chat(document: Mapping[str, Any]) -> bool:
    return "chat" in str(document.get("backend") or document.get("endpoint_type") or "")


def _failed(document: Mapping[str, Any], ok: int, name: str) -> int:
    """vLLM wrote for long only how many requests there were, and how many completed."""
    prompts = pick(document, "num_prompts", kind=int, where=name)
    stated = pick_optional(document, "failed", kind=int, where=name)
    failed = prompts - ok if stated is None else int(stated)
    if failed < 0 or ok + failed != prompts:
        counted = f"{ok} completed" + ("" if stated is None else f" and {stated} failed")
        raise ImportFileError(f"{name}: it totals {prompts} prompts, of which {counted}")
    return failed


def _summary(document: Mapping[str, Any], metrics: Figures, name: str) -> ImportedPoint:
    chat = _is_chat(document)
    names = {"e2e": "e2el_ms"} if chat else {"ttft": "ttft_ms", "itl": "tpot_ms", "tpot": "tpot_ms", "icl": "itl_ms"}
    ok = pick(document, "completed", kind=int, where=name)
    return ImportedPoint(
        metrics=metrics,
        **_load(document, name),
        known=statistics(metrics, {**names, "e2e": "e2el_ms"}, ok, name) if ok else {},
        ok=ok,
        failed=_failed(document, ok, name),
        unknown={
            **because(f"{_SUMMARY}; vLLM's own rates include ramp-up and drain", *RATES),
            **(because(f"{_ROLE}, and {_SUMMARY}", *_TOKEN_TIMES, "ttst", "icl") if chat else {}),
        },
    )


def _detailed(document: Mapping[str, Any], metrics: Figures, name: str) -> ImportedPoint:
    own = pick_optional(document, "llmperf_tokenless", kind=list, where=name)  # of our exports
    found = rows(document, _begun_ns(document, name), name)
    check_rows(found, document, name)
    if own is None:  # ours may begin before sending, and hold several runs
        check_latencies(found, document, name)
    check_total("prompts", document["num_prompts"], len(found), name)
    chat = _is_chat(document)
    tokenless = [_tokenless(row, chat) for row in found]
    prompts: list[int | None] = [None] * len(found)
    if own is not None:
        places = range(len(found))
        tokenless = [pick_list(own, place, kind=int, where=f"{name}: llmperf_tokenless") for place in places]
        # Our exports write 0 where the length is not known.
        prompts = [pick_optional(document, "input_lens", place, kind=int, where=name) or None for place in places]
    unsure = sum(numbers is None for numbers in tokenless)
    rows_of = zip(found, tokenless, prompts, strict=True)
    records = [record(row, tokenless=without or (), input_tokens=prompt) for row, without, prompt in rows_of]
    roles = sum(bool(numbers) for numbers in tokenless)
    return ImportedPoint(
        metrics=metrics,
        **_load(document, name),
        runs=tuple(tuple(in_order(run)) for run in _by_run(records, document, name)),
        unknown={
            **because("vLLM does not tell reasoning from answer", "ttfo"),
            **because("vLLM's file holds no time after the last chunk", "concurrency_mean"),
            **({} if own is not None else because("vLLM counts prompts without the chat template", "input_tokens")),
            **(because(f"{_ROLE} of {unsure} requests", *_TOKEN_TIMES, *CHUNK_GAPS) if unsure else {}),
            **(because(_NO_STARTS, *RATES) if document.get("start_times") is None else {}),
        },
        notes=(f"first chunks without a token were taken off {roles} of {len(found)} requests",) if roles else (),
    )


def _by_run(records: Sequence[RequestRecord], document: Mapping[str, Any], name: str) -> list[list[RequestRecord]]:
    """Our own exports say how many requests each run has; vLLM's hold one run."""
    rest = iter(records)
    stated = document.get("llmperf_runs")
    counts = pick_list(document, "llmperf_runs", kind=int, where=name) if stated else [len(records)]
    check_total("requests of its runs", sum(counts), len(records), name)
    return [list(itertools.islice(rest, count)) for count in counts]


def _begun_ns(document: Mapping[str, Any], name: str) -> int:
    """`start_times` are of a clock without a date; the first was about when the file says that it was written."""
    text = pick(document, "date", kind=str, where=name)
    try:
        return int(datetime.strptime(text, "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()) * 10**9
    except ValueError as error:
        raise ImportFileError(f"{name}: date is {text!r}, not of the form 20251231-235959") from error


def _tokenless(row: ListedRequest, chat: bool) -> Sequence[int] | None:
    """Numbers of the chunks before the first token; None where that is not known, as chunks hold several tokens."""
    surplus = len(row.seen_ns) - row.tokens
    if row.error is not None or surplus == 0:
        return ()
    if chat:
        return (0,) if surplus == 1 else None
    return () if surplus < 0 else None
