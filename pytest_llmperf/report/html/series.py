"""One run over time: what the client had in flight, and what server and GPUs reported of themselves. Pure.

Small charts on one time axis, which is the timeline's too: what the bars above do can be followed down the page.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pytest_llmperf.formulas.pace import visible_tokens
from pytest_llmperf.metrics.summary import rounded
from pytest_llmperf.records import RequestRecord, Run
from pytest_llmperf.report.html.charts import Cell, Chart, Trace, safe

_BINS = 80
_TABLE_ROWS = 20
_PANEL_PX = 92
_AROUND_PX = 130
MARGIN = {"l": 64, "r": 16, "t": 26, "b": 46}
"""Margin of every chart over time, so that the same second is at the same place in all."""


class _Panel(NamedTuple):
    title: str
    factor: float
    """Factor from the recorded unit to the shown one."""
    series: tuple[tuple[str, str], ...]
    """Recorded name, and the trace's."""


class Line(NamedTuple):
    """One trace: seconds since the run's first request, and values in the shown unit."""

    name: str
    seconds: tuple[float, ...]
    values: tuple[float | None, ...]


_PANELS = (
    _Panel("requests", 1, (("requests_running", "running"), ("requests_waiting", "waiting"))),
    _Panel("KV cache in %", 100, (("kv_cache_usage", "KV cache"),)),
    _Panel("preemptions", 1, (("preemptions", "preemptions"),)),
    _Panel("queue in ms per request", 1, (("queue_ms", "queue"),)),
    _Panel("GPU utilisation in %", 100, (("gpu_utilization", "GPU utilisation"),)),
    _Panel("memory in GiB", 2**-30, (("gpu_memory_bytes", "GPU memory"), ("rss_bytes", "server's RSS"))),
    _Panel("GPU power in W", 1, (("gpu_power_w", "GPU power"),)),
    _Panel("server's CPU in cores", 1, (("cpu_cores", "CPU"),)),
)
SERIES = {
    "in flight (client)": "requests that were sent and had not ended, by the client's own record",
    "running, waiting": "requests that the engine was computing, and that waited in its queue, by its /metrics",
    "KV cache": "share of the KV cache's blocks that were in use",
    "queue": "mean time in the server's queue of the requests that ended between two samples",
    "GPU utilisation": "share of time in which any kernel ran (NVML): not how much of the GPU it used",
    "server's RSS": "resident memory of the server's processes; what they share is counted in each",
}
"""Meaning of the sampled series, for the page's definitions."""


def begin(record: RequestRecord) -> int:
    """The time at which it was due, else sent."""
    return record.due_ns or record.sent_ns or 0


def time_axis(run: Run) -> dict[str, Any]:
    """The axis that all charts over this run have."""
    begin_ns, end_ns = _span_ns(run)
    return {"title": {"text": "seconds since the first request"}, "range": [0, seconds(end_ns - begin_ns)]}


def _span_ns(run: Run) -> tuple[int, int]:
    """Times of the first request's begin and the last one's end."""
    sent = [record for record in run.records if record.sent_ns is not None]
    return min(map(begin, sent)), max(record.end_ns for record in sent)


def seconds(ns: int) -> float:
    return round(ns / 1e9, 6)


def series_chart(run: Run) -> Chart | None:
    """Requests in flight and tokens per second as the client saw them, then what was sampled; None without tokens."""
    chunks = [moment for record in run.records for moment in record.chunk_ns]
    if not chunks:
        return None
    panels, axis = dict(_panels(run)), time_axis(run)
    lines = [line for held in panels.values() for line in held]
    notes = [f" {note}." for note in (run.telemetry.notes if run.telemetry else ())]
    says = f"What the server was busy with and what it gave, on the time axis of the requests.{''.join(notes)}"
    return Chart(
        f"Load and server in run {run.index + 1}",
        says,
        {"data": list(_traces(panels)), "layout": _layout(list(panels), axis)},
        ("seconds", *(line.name for line in lines)),
        tuple(_rows(lines, axis["range"][1])),
        wide=True,
    )


def _panels(run: Run) -> Iterator[tuple[str, list[Line]]]:
    """Lines by title of the panel, where it has anything to show."""
    sent = [record for record in run.records if record.sent_ns is not None]
    zero_ns, end_ns = _span_ns(run)
    edges = np.linspace(zero_ns, max(end_ns, zero_ns + 1), _BINS + 1)
    middles = tuple(seconds(int((a + b) / 2) - zero_ns) for a, b in itertools.pairwise(edges))
    in_flight = Line("in flight (client)", middles, tuple(_in_flight(sent, edges[:-1])))
    rate = Line("output tok/s", middles, tuple(_token_rate(sent, edges)))
    for panel in _PANELS:
        found = list(_sampled(run, panel, zero_ns))
        if panel is _PANELS[0]:
            yield panel.title, [in_flight, *found]
            yield "output tok/s (client)", [rate]
        # Preemptions are worth a chart when there are any.
        elif any(any(line.values) if panel.title == "preemptions" else line.values for line in found):
            yield panel.title, found


def _sampled(run: Run, panel: _Panel, zero_ns: int) -> Iterator[Line]:
    tracks = run.telemetry.tracks if run.telemetry else ()
    for name, label in panel.series:
        with_values = [
            track for track in tracks if any(value is not None for value in dict(track.series).get(name, ()))
        ]
        for track in with_values:
            shown = f"{label} ({track.source})" if len(with_values) > 1 else label
            values = dict(track.series)[name]
            yield Line(
                shown,
                tuple(seconds(at - zero_ns) for at in track.at_ns),
                tuple(None if value is None else rounded(value * panel.factor, 5) for value in values),
            )


def _traces(panels: Mapping[str, Sequence[Line]]) -> Iterator[Trace]:
    roles = itertools.count()
    for place, lines in enumerate(panels.values(), start=1):
        for line in lines:
            yield {
                "type": "scatter",
                "mode": "lines",
                "name": safe(line.name),
                "x": list(line.seconds),
                "y": list(line.values),
                "yaxis": f"y{place if place > 1 else ''}",
                "meta": next(roles),
                "hovertemplate": "%{x:.3g} s: %{y:.4g}<extra>" + safe(line.name) + "</extra>",
            }


def _layout(titles: Sequence[str], axis: Mapping[str, Any]) -> dict[str, Any]:
    """Panels from the top down; every title stands over its own."""
    share, gap = 1 / len(titles), min(0.06, 0.3 / len(titles))
    tops = [1 - place * share for place in range(len(titles))]
    axes = {
        f"yaxis{place if place > 1 else ''}": {
            "domain": [max(0.0, top - share + gap), top],
            "rangemode": "tozero",
            "nticks": 4,
            "automargin": False,
        }
        for place, top in enumerate(tops, start=1)
    }
    label = {"xref": "paper", "yref": "paper", "x": 0, "xanchor": "left", "yanchor": "bottom", "showarrow": False}
    height = _AROUND_PX + _PANEL_PX * len(titles)
    return {
        **axes,
        "xaxis": {**axis, "anchor": f"y{len(titles) if len(titles) > 1 else ''}"},
        "annotations": [
            {**label, "name": "label", "text": title, "y": top} for title, top in zip(titles, tops, strict=True)
        ],
        "height": height,
        "margin": MARGIN,
        "legend": {"y": -60 / (height - MARGIN["t"] - MARGIN["b"])},
    }


def _rows(lines: Sequence[Line], last_s: float) -> Iterator[tuple[Cell, ...]]:
    """Latest value of every series at some moments of the run."""
    for moment in np.linspace(0, last_s, _TABLE_ROWS + 1)[1:]:
        yield round(float(moment), 3), *(_latest(line, float(moment)) for line in lines)


def _latest(line: Line, moment: float) -> float | None:
    place = bisect.bisect_right(line.seconds, moment)
    return line.values[place - 1] if place else None


def _in_flight(records: Sequence[RequestRecord], moments: Any) -> list[float]:
    begun = np.sort([record.sent_ns or 0 for record in records])
    ended = np.sort([record.end_ns for record in records])
    count = np.searchsorted(begun, moments, "right") - np.searchsorted(ended, moments, "right")
    return [float(value) for value in count]


def _token_rate(records: Sequence[RequestRecord], edges: Any) -> list[float]:
    """Tokens per second in every bin; where only a request's total is known, each chunk has an equal share."""
    moments = [moment for record in records for moment in record.chunk_ns]
    weights = [weight for record in records for weight in record.chunk_tokens or _even(record)]
    counts, _ = np.histogram(moments, bins=edges, weights=weights)
    return [float(f"{value:.5g}") for value in counts / (np.diff(edges) / 1e9)]


def _even(record: RequestRecord) -> list[float]:
    chunks = len(record.chunk_ns)
    return [(visible_tokens(record) or chunks) / chunks] * chunks if chunks else []
