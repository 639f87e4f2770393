"""Loads in words, and how long they take."""

from __future__ import annotations

from pathlib import Path

from pytest_llmperf.metrics.capacity.bracket import levels_upwards, most_levels
from pytest_llmperf.metrics.capacity.length import describe_length
from pytest_llmperf.plan.load.files.traces import read_trace
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.runner.measure.length import MOST_TIMES
from pytest_llmperf.runner.tasks.capacity import MOST_REPEATS, level_point
from pytest_llmperf.units import counted


def describe_load(load: LoadPoint, runs: int) -> str:
    """The content of a load and the time that it takes, as far as both can be known without the server."""
    if load.capacity is not None:
        return f"{describe_capacity(load, runs)}; {_sent(load)}"
    repeats = f"until stable, at most {runs} windows" if load.stability else counted(runs, "run")
    many = f"{load.requests} to {load.requests * MOST_TIMES}" if load.length and load.requests else load.requests
    decided = ", decided before the first run" if load.length else ""
    count = repeats if load.requests is None else f"{repeats} x {many} requests{decided}"
    seconds = load_seconds(load)
    time = "as long as the server takes" if seconds is None else f"about {max(seconds * runs, 1):.0f} s"
    return f"{_shape(load)}, {_sent(load)}, {count}: {time}"


def _sent(load: LoadPoint) -> str:
    if load.trace is not None:
        return "lengths of the trace"
    batch = f", {load.batch_size} prompts a request" if load.batch_size > 1 else ""
    source = f"{load.input_tokens} tokens in" if load.prompts is None else f"prompts of {Path(load.prompts.file).name}"
    return f"{source}, {load.output_tokens} out{batch}"


def _shape(load: LoadPoint) -> str:
    if load.trace is not None:
        return f"replay of {Path(load.trace.file).name}"
    if load.stages:
        levels = " → ".join(f"{stage.concurrency or stage.request_rate:g}" for stage in load.stages)
        return f"stages of concurrency {levels}" if load.closed_loop else f"stages of {levels} req/s {load.arrival}"
    ramp = "" if load.ramp is None else f" after a ramp from {load.ramp.start:g}"
    if load.request_rate is not None:
        return f"{load.request_rate:g} req/s {load.arrival}{ramp}"
    return f"concurrency {load.concurrency}{ramp}"


def load_seconds(load: LoadPoint) -> float | None:
    """Seconds in which one run sends requests; None where that depends on the server, as the levels of a search do."""
    if load.capacity is not None:
        return None
    if load.trace is not None:
        return read_trace(load.trace).entries[-1].due_s
    if load.stages:
        return sum(stage.duration for stage in load.stages)
    ramp_s = load.ramp.over if load.ramp else 0.0
    if load.duration is not None:
        return ramp_s + load.duration
    if load.length:
        return None
    return ramp_s + load.requests / load.request_rate if load.requests and load.request_rate else None


def describe_capacity(load: LoadPoint, runs: int) -> str:
    """The most that a search for a capacity sends, as far as it can be known without the server."""
    asked = load.capacity
    assert asked is not None, "only a load with a capacity is searched"
    low, high = asked.span
    shape = f"{low:g} to {high:g} req/s {load.arrival}" if asked.request_rate else f"concurrency {low:g} to {high:g}"
    each = f"{load.requests} requests" if load.requests is not None else f"{load.duration:g} s"
    limits = ", ".join(map(str, asked.sla))
    points = [level_point(load, level) for level in levels_upwards(asked)]
    seconds = [p.duration or (p.requests or 0) / (p.request_rate or 1) for p in points]
    is_known = asked.request_rate is not None or load.duration is not None
    time = f"; up to the end of the range {sum(seconds):.0f} s" if is_known else ""
    length = f"; {describe_length(load)}" if asked.request_rate else ""
    later = f", then {runs - 1} searches around the answer" if runs > 1 else ""
    return (
        f"capacity over {shape} (within {asked.within:.0%}) that meets {limits}: at most {most_levels(asked)} levels x "
        f"{each}, one in doubt up to {MOST_REPEATS} times{later}{length}{time}"
    )
