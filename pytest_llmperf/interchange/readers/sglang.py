"""SGLang's `bench_serving`: a line of JSON per run, with its requests by `--output-details`. Pure.

Read by the keys of SGLang 0.4 and 0.5; the file tells no version. Only chunks with text count. How many requests were
sent is in the file only where their details are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_llmperf.interchange.readers.shared.fields import NUMBER, ImportFileError, level, pick, text_at
from pytest_llmperf.interchange.readers.shared.imported import Imported, ImportedPoint
from pytest_llmperf.interchange.readers.shared.request_lists import (
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
from pytest_llmperf.interchange.readers.shared.unknown import RATES, because, unless_streamed

_MARKS = {"backend", "dataset_name", "request_rate", "duration", "completed", "total_output_tokens_retokenized"}
_NAMES = {"ttft": "ttft_ms", "itl": "tpot_ms", "tpot": "tpot_ms", "icl": "itl_ms", "e2e": "e2e_latency_ms"}
_UNITS = {
    "request_throughput": "requests/sec",
    "input_throughput": "tokens/sec",
    "output_throughput": "tokens/sec",
    "total_throughput": "tokens/sec",
    "duration": "sec",
    "completed": "count",
    "concurrency": "requests",
}
_TEXT = "SGLang's first token is the first chunk with text"
_NO_TIMES = "the file does not say when requests were sent"
_SPREAD = "SGLang's own endpoint: the time of a chunk is spread evenly over its tokens"
_BEGUN_NS = 10**18
"""Any moment: all times of the file are counted from a request's own start."""


def is_sglang_result(document: Mapping[str, Any]) -> bool:
    """True if a document has the keys that SGLang writes into every result, and only SGLang."""
    return document.keys() >= _MARKS


def sglang_result(document: Mapping[str, Any], name: str) -> Imported:
    """One run. ImportFileError where its totals are not what it holds, or do not say how many requests failed."""
    metrics = latencies(document, ("ttft", "tpot", "itl", "e2e_latency"), name) | rates(document, _UNITS, name)
    read = _detailed if has_lists(document) else _summary
    return Imported("sglang", None, text_at(document, "model_id"), (read(document, metrics, name),))


def _load(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A rate of Infinity sends as soon as a slot is free; without a limit all requests are sent at once."""
    rate = document["request_rate"]
    if isinstance(rate, str):
        return {"shape": f"requests as in a {rate}"}
    slots = level(document, "max_concurrency", kind=int, where=name)
    if rate is not None and rate != float("inf"):
        return {
            "request_rate": float(level(document, "request_rate", kind=NUMBER, where=name)),
            "max_in_flight": slots,
        }
    return {"concurrency": slots} if slots else {"shape": "all requests at once"}


def _unknown(document: Mapping[str, Any], streamed: bool) -> dict[str, str]:
    native = document.get("backend") in ("sglang", "sglang-native")
    return {
        **because(_NO_TIMES, *RATES),
        **because("SGLang does not tell reasoning from answer", "ttfo"),
        **(because(_SPREAD, "icl", "ttst") if native else {}),
        **unless_streamed(streamed),
    }


def _summary(document: Mapping[str, Any], metrics: Figures, name: str) -> ImportedPoint:
    ok = pick(document, "completed", kind=int, where=name)
    if not ok:
        raise ImportFileError(f"{name}: no request completed, and it does not say how many failed")
    return ImportedPoint(
        metrics=metrics,
        **_load(document, name),
        known=statistics(metrics, _NAMES, ok, name),
        ok=ok,
        # The tool writes 0 for the gaps of answers that have none.
        unknown={
            **_unknown(document, streamed="itl_ms" in metrics),
            **because("the file does not say how many requests were sent (--output-details does)", "error_rate"),
        },
        notes=(_TEXT, *rate_notes(document, name)),
    )


def _detailed(document: Mapping[str, Any], metrics: Figures, name: str) -> ImportedPoint:
    found = rows(document, _BEGUN_NS, name)
    check_rows(found, document, name)
    check_latencies(found, document, name)
    several = [row for row in found if row.error is None and row.tokens > 1]
    return ImportedPoint(
        metrics=metrics,
        **_load(document, name),
        runs=(tuple(map(record, found)),),
        unknown={
            **_unknown(document, streamed=not several or any(len(row.seen_ns) > 1 for row in several)),
            **because("SGLang counts prompts without the chat template", "input_tokens"),
        },
        notes=(_TEXT, *rate_notes(document, name)),
    )
