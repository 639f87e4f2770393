"""One run over time: what every request was doing, and what the server gave meanwhile. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pytest_llmperf.records import RequestRecord, Run
from pytest_llmperf.report.html.charts import Cell, Chart, Trace, safe

SHOWN = 60
"""Requests of a timeline: more of them are no longer seen apart."""
_BINS = 80
_PHASES = ("queue", "prefill", "decode")


def timeline_chart(run: Run) -> Chart | None:
    """The first requests of a run, one bar each; None for a run that sent nothing."""
    sent = sorted((r for r in run.records if r.sent_ns is not None), key=_begin)
    if not sent:
        return None
    shown, zero_ns = sent[:SHOWN], _begin(sent[0])
    traces = [trace for phase in _PHASES if (trace := _bars(phase, shown, zero_ns))]
    traces += [trace for trace in (_failures(shown, zero_ns),) if trace]
    layout = {
        "barmode": "overlay",
        "bargap": 0.15,
        "xaxis": {"title": {"text": "seconds since the first request"}},
        "yaxis": {"title": {"text": "request"}, "autorange": "reversed"},
        "height": min(760, 160 + 9 * len(shown)),
    }
    part = f"the first {len(shown)} of {len(sent)} requests" if len(shown) < len(sent) else f"all {len(sent)} requests"
    headers = ("request", "begun (s)", *(f"{phase} (ms)" for phase in _PHASES), "output tokens", "error")
    return Chart(
        f"Requests of run {run.index + 1}",
        f"One bar per request ({part}): waiting to be sent, waiting for the first token, receiving tokens.",
        {"data": traces, "layout": layout},
        headers,
        tuple(_row(number, record, zero_ns) for number, record in enumerate(shown, start=1)),
    )


def _begin(record: RequestRecord) -> int:
    """When it was due, else sent."""
    return record.due_ns or record.sent_ns or 0


def _spans(record: RequestRecord) -> dict[str, tuple[int, int]]:
    """Begin and end of every phase that the request got to."""
    assert record.sent_ns is not None
    first = record.chunk_ns[0] if record.chunk_ns else record.end_ns
    spans = {"queue": (_begin(record), record.sent_ns), "prefill": (record.sent_ns, first)}
    return spans | ({"decode": (first, record.chunk_ns[-1])} if record.chunk_ns else {})


def _bars(phase: str, records: Sequence[RequestRecord], zero_ns: int) -> Trace | None:
    held = [(number, _spans(record).get(phase)) for number, record in enumerate(records, start=1)]
    known = [(number, begin, end) for number, span in held if span and span[1] > span[0] for begin, end in [span]]
    if not known:
        return None
    return {
        "type": "bar",
        "orientation": "h",
        "name": phase,
        "y": [number for number, _, _ in known],
        "base": [_seconds(begin - zero_ns) for _, begin, _ in known],
        "x": [_seconds(end - begin) for _, begin, end in known],
        "meta": phase,
        "hovertemplate": "request %{y}: %{x:.4g} s of " + phase + "<extra></extra>",
    }


def _failures(records: Sequence[RequestRecord], zero_ns: int) -> Trace | None:
    failed = [(number, record) for number, record in enumerate(records, start=1) if record.error]
    if not failed:
        return None
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "failed",
        "x": [_seconds(record.end_ns - zero_ns) for _, record in failed],
        "y": [number for number, _ in failed],
        "text": [safe((record.error or "")[:200]) for _, record in failed],
        "marker": {"symbol": "x", "size": 9},
        "meta": "bad",
        "hovertemplate": "request %{y}: %{text}<extra></extra>",
    }


def _row(number: int, record: RequestRecord, zero_ns: int) -> tuple[Cell, ...]:
    spans = _spans(record)
    times = [
        (end - begin) / 1e6 if span else None for span in map(spans.get, _PHASES) for begin, end in [span or (0, 0)]
    ]
    return number, _seconds(_begin(record) - zero_ns), *times, record.output_tokens, record.error or ""


def _seconds(ns: int) -> float:
    return round(ns / 1e9, 6)


def load_chart(run: Run) -> Chart | None:
    """Requests in flight and tokens per second over the run, as the client saw them; None without any token."""
    chunks = [moment for record in run.records for moment in record.chunk_ns]
    if not chunks:
        return None
    sent = [record for record in run.records if record.sent_ns is not None]
    zero_ns, end_ns = min(map(_begin, sent)), max(max(chunks), *(record.end_ns for record in sent))
    edges = np.linspace(zero_ns, end_ns, _BINS + 1)
    in_flight = _in_flight(sent, edges[:-1])
    rate = _token_rate(sent, edges)
    middles = [_seconds(int((a + b) / 2) - zero_ns) for a, b in itertools.pairwise(edges)]
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": "seconds since the first request"}},
        "yaxis": {"title": {"text": "output tok/s"}, "rangemode": "tozero"},
        "yaxis2": {
            "title": {"text": "in flight"},
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "tickmode": "auto",
        },
    }
    return Chart(
        f"Tokens and requests in flight of run {run.index + 1}",
        "What the server gave over the run, and how many requests it was busy with.",
        {
            "data": [_line("output tok/s", middles, rate, 0), _line("in flight", middles, in_flight, 1, "y2")],
            "layout": layout,
        },
        ("seconds", "output tok/s", "in flight"),
        tuple(zip(middles, rate, in_flight, strict=True))[::4],
    )


def _in_flight(records: Sequence[RequestRecord], moments: Any) -> list[float]:
    begun = np.sort([record.sent_ns or 0 for record in records])
    ended = np.sort([record.end_ns for record in records])
    count = np.searchsorted(begun, moments, "right") - np.searchsorted(ended, moments, "right")
    return [float(value) for value in count]


def _token_rate(records: Sequence[RequestRecord], edges: Any) -> list[float]:
    """Tokens per second in every bin; where only a request's total is known, each chunk has an equal share."""
    moments = [moment for record in records for moment in record.chunk_ns]
    weights = [weight for record in records for weight in _weights(record)]
    counts, _ = np.histogram(moments, bins=edges, weights=weights)
    return [float(f"{value:.5g}") for value in counts / (np.diff(edges) / 1e9)]


def _weights(record: RequestRecord) -> Iterator[float]:
    total = record.output_tokens or len(record.chunk_ns)
    share = total / len(record.chunk_ns) if record.chunk_ns else 0.0
    yield from record.chunk_tokens or (share for _ in record.chunk_ns)


def _line(name: str, x: Sequence[float], y: Sequence[float], role: int, axis: str = "y") -> Trace:
    return {"type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y), "meta": role, "yaxis": axis}
