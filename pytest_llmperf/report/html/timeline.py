"""One run over time: what every request was doing. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_llmperf.records import RequestRecord, Run
from pytest_llmperf.report.html.charts import Cell, Chart, Trace, safe
from pytest_llmperf.report.html.series import MARGIN, begin, seconds, time_axis

SHOWN = 60
"""Requests of a timeline: more of them are no longer seen apart."""
_FAILED = 20
"""Failed requests that are shown though it is not their turn."""
_COLOURS = {
    "to be sent": "queue",
    "server queue": "baseline",
    "prefill": "prefill",
    "to first token": "prefill",
    "decode": "decode",
}
"""Colours by phase, in order. Only a server that gives a request's time in its queue gives its prefill too."""


def timeline_chart(run: Run) -> Chart | None:
    """Requests of a run, one bar each, evenly chosen where they are many; None for a run that sent nothing."""
    sent = sorted((r for r in run.records if r.sent_ns is not None), key=begin)
    if not sent:
        return None
    step = -(-len(sent) // SHOWN)
    failed = {record.index for record in [r for r in sent if r.error][:_FAILED]}
    shown = [record for place, record in enumerate(sent) if place % step == 0 or record.index in failed]
    zero_ns = begin(sent[0])
    height = min(760, 160 + 9 * len(shown))
    traces = [trace for phase in _COLOURS if (trace := _bars(phase, shown, zero_ns))]
    traces += [trace for trace in (_failures(shown, zero_ns),) if trace]
    layout = {
        "barmode": "overlay",
        "bargap": 0.15,
        "xaxis": time_axis(run),
        "yaxis": {"title": {"text": "request"}, "autorange": "reversed", "automargin": False},
        "height": height,
        "margin": MARGIN,
        "legend": {"y": -60 / (height - MARGIN["t"] - MARGIN["b"])},
    }
    trouble = " and what failed" if failed else ""
    chosen = f"{len(shown)} of {len(sent)} requests, every {_th(step)} one{trouble}"
    part = f"all {len(sent)} requests" if step == 1 else chosen
    phases = [phase for phase in _COLOURS if any(phase in _spans(record) for record in shown)]
    headers = ("request", "begun (s)", *(f"{phase} (ms)" for phase in phases), "output tokens", "error")
    return Chart(
        f"Requests of run {run.index + 1}",
        f"One bar per request ({part}): waiting to be sent, waiting for the first token, receiving tokens. A server "
        "that tells its queue has that apart from its prefill.",
        {"data": traces, "layout": layout},
        headers,
        tuple(_row(number, record, zero_ns, phases) for number, record in enumerate(shown, start=1)),
        wide=True,
    )


def _th(number: int) -> str:
    """2nd, 3rd, 11th."""
    last = 0 if 10 < number % 100 < 14 else number % 10
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"


def _spans(record: RequestRecord) -> dict[str, tuple[int, int]]:
    """Begin and end of every phase that the request got to."""
    assert record.sent_ns is not None
    first = record.chunk_ns[0] if record.chunk_ns else record.end_ns
    spans = {"to be sent": (begin(record), record.sent_ns)}
    if record.server_ns is None:
        spans["to first token"] = (record.sent_ns, first)
    else:
        waited_ns = max(record.server_ns.scheduled - record.server_ns.arrived, 0)
        scheduled = min(record.sent_ns + waited_ns, first)
        spans |= {"server queue": (record.sent_ns, scheduled), "prefill": (scheduled, first)}
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
        "base": [seconds(begin - zero_ns) for _, begin, _ in known],
        "x": [seconds(end - begin) for _, begin, end in known],
        "meta": _COLOURS[phase],
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
        "x": [seconds(record.end_ns - zero_ns) for _, record in failed],
        "y": [number for number, _ in failed],
        "text": [safe((record.error or "")[:200]) for _, record in failed],
        "marker": {"symbol": "x", "size": 9},
        "meta": "bad",
        "hovertemplate": "request %{y}: %{text}<extra></extra>",
    }


def _row(number: int, record: RequestRecord, zero_ns: int, phases: Sequence[str]) -> tuple[Cell, ...]:
    spans = _spans(record)
    times = [
        (end - begin) / 1e6 if span else None for span in map(spans.get, phases) for begin, end in [span or (0, 0)]
    ]
    return number, seconds(begin(record) - zero_ns), *times, record.output_tokens, record.error or ""
