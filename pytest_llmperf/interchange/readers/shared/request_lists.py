"""Requests as `vllm bench serve --save-detailed` and SGLang's `--output-details` hold them: one list per fact. Pure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.interchange.readers.shared.fields import (
    NUMBER,
    ImportFileError,
    check_total,
    is_number,
    pick,
    pick_list,
)
from pytest_llmperf.interchange.readers.shared.imported import imported_record
from pytest_llmperf.interchange.readers.shared.statistics import figures
from pytest_llmperf.records import RequestRecord

LISTS = ("ttfts", "itls", "output_lens", "errors")


@dataclass(frozen=True, slots=True)
class ListedRequest:
    """One request of the lists."""

    sent_ns: int
    seen_ns: tuple[int, ...]
    """Arrival of each chunk that the tool counts."""
    tokens: int
    error: str | None


def has_lists(document: Mapping[str, Any]) -> bool:
    """True if a result holds its requests."""
    return all(isinstance(document.get(key), list) for key in LISTS)


def rows(document: Mapping[str, Any], begun_ns: int, name: str) -> list[ListedRequest]:
    """All requests; sent at `begun_ns` where there are no start times. ImportFileError names the request of what is no
    time, and lists of unequal length."""
    starts = document.get("start_times")
    lists = LISTS if starts is None else (*LISTS, "start_times")
    lengths = {key: len(pick(document, key, kind=list, where=name)) for key in lists}
    if len({*lengths.values()}) > 1:
        raise ImportFileError(f"{name}: its lists of requests are of unequal length: {lengths}")
    if not lengths["ttfts"]:
        raise ImportFileError(f"{name}: its lists of requests are empty")
    places = range(lengths["ttfts"])
    begun = pick_list(document, "start_times", kind=NUMBER, where=name) if starts else []
    sent = [begun_ns + round((start - min(begun)) * 1e9) for start in begun] or [begun_ns] * len(places)
    return [_row(document, place, sent[place], f"{name}: request {place}") for place in places]


def _row(document: Mapping[str, Any], place: int, sent_ns: int, where: str) -> ListedRequest:
    error = document["errors"][place]
    if error is not None:
        error = pick(document, "errors", place, kind=str, where=where)
    tokens = pick(document, "output_lens", place, kind=int, where=where)
    ttft = pick(document, "ttfts", place, kind=NUMBER, where=where)
    waits = pick_list(document["itls"], place, kind=NUMBER, where=f"{where}: itls")
    seen = tuple(sent_ns + round(wait * 1e9) for wait in itertools.accumulate(waits, initial=ttft)) if ttft else ()
    if not error and not tokens and not seen:
        error = "failed without a word"
    return ListedRequest(sent_ns, seen, tokens, error or None)


def record(row: ListedRequest, *, tokenless: Sequence[int] = (), input_tokens: int | None = None) -> RequestRecord:
    """A row as a request of ours; `tokenless` are the numbers of its chunks that carried no token."""
    without = {*tokenless}
    ok = row.error is None
    chunks = tuple(moment for place, moment in enumerate(row.seen_ns) if place not in without) if ok else ()
    return imported_record(
        sent_ns=row.sent_ns,
        chunk_ns=chunks,
        chunk_tokens=(1,) * len(chunks) if len(chunks) == row.tokens else None,
        end_ns=row.seen_ns[-1] if row.seen_ns else row.sent_ns,
        input_tokens=input_tokens,
        output_tokens=row.tokens if ok else None,
        error=row.error,
        tokenless_ns=tuple(row.seen_ns[place] for place in without if place < len(row.seen_ns)),
    )


def check_rows(found: Sequence[ListedRequest], document: Mapping[str, Any], name: str) -> None:
    """Raises ImportFileError where the document's totals are not those of its requests."""
    good = [row for row in found if row.error is None]
    check_total("requests that completed", document.get("completed"), len(good), name)
    check_total("requests that failed", document.get("failed"), len(found) - len(good), name)
    if good:
        check_total("output tokens", document.get("total_output_tokens"), sum(row.tokens for row in good), name)


def check_latencies(found: Sequence[ListedRequest], document: Mapping[str, Any], name: str) -> None:
    """Raises ImportFileError where the document's own latencies are not those of its requests, or a request took longer
    than the whole run."""
    good = [place for place, row in enumerate(found) if row.error is None]
    firsts = [document["ttfts"][place] * 1e3 for place in good]
    gaps = [gap * 1e3 for place in good for gap in document["itls"][place]]
    wholes = [first + sum(document["itls"][place]) * 1e3 for place, first in zip(good, firsts, strict=True)]
    for stat, average in (("mean", statistics.fmean), ("median", statistics.median)):
        for metric, values in (("ttft", firsts), ("itl", gaps)):
            if values:
                _check_latency(document, f"{stat}_{metric}_ms", average(values), name)
    for metric in ("e2el", "e2e_latency"):
        # The tools' own latency may end later, at a chunk that they count nowhere else.
        if wholes:
            _check_latency(document, f"mean_{metric}_ms", statistics.fmean(wholes), name, may_be_more=True)
    duration = pick(document, "duration", kind=NUMBER, where=name)
    for place, whole in zip(good, wholes, strict=True):
        if whole > duration * 1e3 * 1.05:
            raise ImportFileError(
                f"{name}: request {place} took {whole / 1e3:.6g} s, and the whole run {duration:.6g} s"
            )


def _check_latency(document: Mapping[str, Any], key: str, read: float, name: str, *, may_be_more: bool = False) -> None:
    stated = document.get(key)
    # The tools write 0 where there was no value.
    if not stated or not is_number(stated) or (may_be_more and stated > read):
        return
    if not math.isclose(stated, read, rel_tol=0.01, abs_tol=0.1):
        raise ImportFileError(f"{name}: its {key} is {stated:.6g}, and {read:.6g} over its requests")


def rate_notes(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Notes on requests and tokens per second that are not those of the document's own total and duration."""
    duration = pick(document, "duration", kind=NUMBER, where=name)
    per_second = {
        rate: document[total] / duration
        for total, rate in (("completed", "request_throughput"), ("total_output_tokens", "output_throughput"))
        if is_number(document.get(total)) and is_number(document.get(rate)) and duration
    }
    return tuple(
        f"its {rate} is {document[rate]:.6g}, and its total over its duration {value:.6g}: one of them is wrong"
        for rate, value in per_second.items()
        if not math.isclose(value, document[rate], rel_tol=0.01)
    )


def latencies(document: Mapping[str, Any], names: Sequence[str], where: str) -> dict[str, dict[str, float | str]]:
    """Statistics of those that are there, as `ttft_ms`: `mean_ttft_ms`, `p99_ttft_ms` and so on. What every value of is
    0 has none: that is what the tools write for nothing."""
    found, renamed = {}, {"mean": "avg", "median": "p50"}
    for name in names:
        ending = f"_{name}_ms"
        stats = {key.removesuffix(ending): value for key, value in document.items() if key.endswith(ending)}
        named = {renamed.get(stat, stat): value for stat, value in stats.items()}
        found[f"{name}_ms"] = figures(named, "ms", f"{where}: {name}_ms")
    return {name: values for name, values in found.items() if any(values[stat] for stat in values.keys() - {"unit"})}


def rates(document: Mapping[str, Any], units: Mapping[str, str], where: str) -> dict[str, dict[str, float | str]]:
    """One number per run each, of those that are there."""
    found = {name: figures({"avg": document.get(name)}, unit, f"{where}: {name}") for name, unit in units.items()}
    return {name: values for name, values in found.items() if "avg" in values}
