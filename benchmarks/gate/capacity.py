"""How often a capacity is wrong: seeded searches on modelled servers whose capacity is known, in simulated time.

    python benchmarks/gate/capacity.py --json benchmarks/gate/results/capacity-2026-11-27.jsonl

A trial is one point: three searches, as a test makes them, by the code that judges and leads real searches; only the
server and its clock are a model, the embedded engine's own (`agrees` holds it against the engine's scheduler). The
truth is the rate at which 120,000 requests meet the limit, or what the server takes where arrivals have equal gaps.
Prints a table as markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from virtual import Point, run_point

from pytest_llmperf.definitions import METRICS
from pytest_llmperf.embedded.settings import EngineSettings
from pytest_llmperf.load.trace.arrivals import Arrival, due_offsets_ns
from pytest_llmperf.metrics.capacity.answer import Capacity
from pytest_llmperf.metrics.capacity.bracket import BracketStart, LevelSearch, LevelTrial, concluded, next_level
from pytest_llmperf.metrics.capacity.level import Execution, judge_level
from pytest_llmperf.metrics.summary import Summary, distribution
from pytest_llmperf.metrics.trust.saturation import arrival_spread, done_rate, trend
from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.runner.tasks.capacity import MOST_REPEATS, drawn_anew, level_point

_INPUT_TOKENS = 20
_SEARCHES = 3
_TRUTH_SEEDS, _TRUTH_REQUESTS = range(2), 60_000
_RUN_SD = 0.01
"""Noise of a launch's steps from execution to execution."""


@dataclass(frozen=True, slots=True)
class Server:
    """Sequences at once, tokens of an answer, and costs of a step in ms."""

    slots: int
    output_tokens: int
    step_ms: float
    prefill_ms: float


SERVERS = {"32 slots": Server(32, 33, 7.8125, 0.0005), "8 slots": Server(8, 10, 5.0, 0.05)}
KINDS: tuple[tuple[str, Arrival], ...] = (
    ("ttft_p99 <= 30 ms", "constant"),
    ("ttft_p99 <= 100 ms", "constant"),
    ("ttft_p99 <= 500 ms", "constant"),
    ("ttft_p99 <= 30 ms", "poisson"),
    ("ttft_p99 <= 100 ms", "poisson"),
    ("ttft_p90 <= 50 ms", "poisson"),
    ("ttft_p99 <= 500 ms", "poisson"),
    ("ttft_p99 <= 100 ms", "gamma"),
)
"""Limits and arrivals."""
BURSTINESS = 2.0
REQUESTS = (60, 600)


@dataclass(frozen=True, slots=True)
class Case:
    """One point: where, within which limit, and with how many requests its searches look for the capacity."""

    server: str
    limit: str
    arrival: Arrival
    requests: int
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What three searches said, in req/s, and how many requests and seconds they took."""

    case: Case
    truth: float
    value: float | None
    low: float | None
    high: float | None
    sent: int
    seconds: float

    @property
    def holds_truth(self) -> bool:
        return self.low is not None and self.high is not None and self.low <= self.truth <= self.high

    @property
    def error(self) -> float:
        """Answer over truth - 1; no answer is infinitely wrong."""
        return math.inf if self.value is None else self.value / self.truth - 1


def serve(due_s: Sequence[float], server: Server, factor: float = 1.0) -> tuple[list[float], list[float]]:
    """When each request's first and last token came: steps follow one another while there is work, as in the engine."""
    first, last = [0.0] * len(due_s), [0.0] * len(due_s)
    waiting: deque[int] = deque()
    ends: dict[int, list[int]] = {}
    now_s, step, active, arrived = 0.0, 0, 0, 0
    while arrived < len(due_s) or waiting or active:
        if not waiting and not active:
            now_s = max(now_s, due_s[arrived])
        while arrived < len(due_s) and due_s[arrived] <= now_s:
            waiting.append(arrived)
            arrived += 1
        new = [waiting.popleft() for _ in range(min(len(waiting), server.slots - active))]
        cost_ms = bool(active) * server.step_ms + len(new) * _INPUT_TOKENS * server.prefill_ms
        now_s += cost_ms / 1e3 * factor
        for number in new:
            first[number] = now_s
        if new:
            ends[step + server.output_tokens - 1] = new
        ended = ends.pop(step, [])
        for number in ended:
            last[number] = now_s
        active += len(new) - len(ended)
        step += 1
    return first, last


def offsets_s(point: LoadPoint, count: int, seed: int) -> list[float]:
    assert point.request_rate is not None
    drawn = due_offsets_ns(point.arrival, point.request_rate, count, seed, point.burstiness)
    return (np.array(drawn) / 1e9).tolist()


def agrees() -> None:
    """Raises AssertionError where this model and the engine's own scheduler give other times."""
    for server in SERVERS.values():
        load = LoadPoint(name="p", input_tokens=_INPUT_TOKENS, output_tokens=server.output_tokens, requests=400)
        load = load.model_copy(update={"request_rate": 90.0, "arrival": "poisson"})
        costs = {"decode_ms_per_step": server.step_ms, "prefill_ms_per_token": server.prefill_ms}
        free = {"decode_ms_per_seq": 0.0, "step_overhead_ms": 0.0, "enable_prefix_caching": False}
        settings = EngineSettings(step="modelled", max_num_seqs=server.slots, **costs, **free)
        engine = run_point(settings, Point(load, _INPUT_TOKENS, server.output_tokens, 5), 0)
        ours = execution(load, server, load.requests or 0, 5, 1.0).summary
        for name in ("ttft", "e2e"):
            theirs, own = engine.distributions[name].mean, ours.distributions[name].mean
            assert np.allclose([theirs], [own], rtol=1e-3), f"{name}: the engine {theirs}, this model {own}"


def execution(point: LoadPoint, server: Server, requests: int, seed: int, factor: float) -> Execution:
    """One execution of a level: what the search knows of it, less the client and every metric that no limit is on."""
    due = offsets_s(point, requests, seed)
    first, last = (np.array(times) for times in serve(due, server, factor))
    ttft_ms, e2e_ms = (first - due) * 1e3, (last - due) * 1e3
    nothing = dict.fromkeys((name for name, metric in METRICS.items() if metric.sample), distribution(()))
    latencies = {**nothing, "ttft": distribution(ttft_ms), "e2e": distribution(e2e_ms)}
    summary = Summary(latencies, {"error_rate": 0.0}, requests, requests, 0, 0, None, ("usage",), ("usage",))
    spread = arrival_spread(point)
    behind = trend(list(zip(due, (e2e_ms / 1e3).tolist(), strict=True)), spread)
    assert behind is not None, "a level has enough requests"
    done = done_rate((np.array(due) * 1e9).tolist(), (last * 1e9).tolist())
    samples = {"ttft": ttft_ms.tolist()} if spread else {}
    return Execution(summary, replace(behind, done_rate=done), (), point.request_rate, "", samples)


@dataclass(slots=True)
class Searches:
    """The searches of one point, as runner.tasks.capacity makes them."""

    point: LoadPoint
    server: Server
    noise: random.Random
    sent: int = 0
    seconds: float = 0.0
    longest_s: float | None = None

    def run(self) -> Capacity:
        assert self.point.capacity is not None
        found: list[LevelSearch] = []
        for _ in range(_SEARCHES):
            first = found[0] if found else None
            start = None if first is None or first.holds is None else BracketStart(first.holds, first.breaks)
            found.append(self._search(len(found), start))
        return Capacity(self.point.capacity, tuple(found), arrival_spread(self.point) > 0)

    def _search(self, number: int, start: BracketStart | None) -> LevelSearch:
        asked = self.point.capacity
        assert asked is not None
        trials: list[LevelTrial] = []
        while (level := next_level(asked, trials, start)) is not None:
            trials.append(self._trial(level, number))
        return concluded(trials, asked)

    def _trial(self, level: float, number: int) -> LevelTrial:
        point = level_point(self.point, level, service_s=self.longest_s)
        is_random = arrival_spread(point) > 0
        repeats = MOST_REPEATS if is_random or not number else 2
        done: list[Execution] = []
        trial = None
        while trial is None or not (trial.sure or len(done) >= repeats):
            seed = drawn_anew(
                point.model_copy(update={"seed": self.point.seed}), number * MOST_REPEATS + len(done)
            ).seed
            factor = math.exp(self.noise.gauss(0, _RUN_SD))
            done.append(execution(point, self.server, point.requests or 0, seed or 0, factor))
            self.sent += point.requests or 0
            self.seconds += (point.requests or 0) / level
            trial = judge_level(level, point.sla, done)
        if trial.verdict == "HOLDS":
            longest_ms = max(e.summary.distributions["e2e"].max or 0.0 for e in done)
            self.longest_s = max(self.longest_s or 0.0, longest_ms / 1e3)
        return trial


def planned(case: Case) -> LoadPoint:
    low = 15 * 1.05 ** (case.seed % 14)  # another begin, so that levels fall elsewhere
    burst = f", burstiness: {BURSTINESS}" if case.arrival == "gamma" else ""
    quantity, limit = case.limit.split(" ", 1)
    searched = f'{{request_rate: "{low:.4g}:640", sla: {{{quantity}: "{limit}"}}}}'
    tokens = f"input_tokens: {_INPUT_TOKENS}, output_tokens: {SERVERS[case.server].output_tokens}"
    load = f"{{{tokens}, capacity: {searched}, arrival: {case.arrival}{burst}, requests: {case.requests}}}"
    (point,) = parse_plan(
        f"model: m\nservers: {{a: {{engine: embedded}}}}\nloads: {{cap: {load}}}\n", "p"
    ).load_points()
    return point.model_copy(update={"seed": case.seed})


def truth(server: str, limit: str, arrival: Arrival) -> float:
    """Bisection over the long run."""
    model = SERVERS[server]
    if arrival == "constant":
        return takes(model)
    low, high = 0.5 * takes(model), takes(model)
    quantile, limit_s = float(limit.split("_p")[1][:2]), float(limit.split()[2]) / 1e3
    point = planned(Case(server, limit, arrival, 60, 0))
    for _ in range(7):
        middle = math.sqrt(low * high)
        at = point.model_copy(update={"request_rate": middle, "capacity": None})
        waits: list[float] = []
        for seed in _TRUTH_SEEDS:
            due = offsets_s(at, _TRUTH_REQUESTS, 1_000_003 + seed)
            waits += (np.array(serve(due, model)[0]) - due).tolist()
        low, high = (middle, high) if np.percentile(waits, quantile) <= limit_s else (low, middle)
    return math.sqrt(low * high)


@cache
def takes(server: Server) -> float:
    """Requests per second of a server that is offered too much: its requests end one after the other, not in step."""
    due = [number / 200 for number in range(20_000)]
    ends = sorted(serve(due, server)[1])[1000:-1000]
    return (len(ends) - 1) / (ends[-1] - ends[0])


def answered(case: Case, known: float) -> Answer:
    searches = Searches(planned(case), SERVERS[case.server], random.Random(case.seed))
    found = searches.run()
    interval = found.interval
    low, high = (interval.low, interval.high) if interval else (None, None)
    return Answer(case, known, found.value, low, high, searches.sent, searches.seconds)


def _row(name: str, answers: Sequence[Answer]) -> str:
    errors = [answer.error for answer in answers]
    covered = sum(answer.holds_truth for answer in answers) / len(answers)
    figures = (float(np.median(errors)), max(errors), min(errors))
    minutes = float(np.median([answer.seconds for answer in answers])) / 60
    shown = " | ".join(f"{figure:+.1%}" for figure in figures)
    return f"| {name} | {len(answers)} | {covered:.1%} | {shown} | {minutes:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=7, help="points per server, limit, arrival and request count")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    agrees()
    kinds = [(server, *kind) for server, kind in product(SERVERS, KINDS)]
    with Pool() as pool:
        known = dict(zip(kinds, pool.starmap(truth, kinds, 1), strict=True))
        cases = [Case(*kind, count, seed) for seed, kind, count in product(range(options.seeds), kinds, REQUESTS)]
        cases = [replace(case, seed=1000 * place + case.seed) for place, case in enumerate(cases)]
        asked = [(case, known[case.server, case.limit, case.arrival]) for case in cases]
        answers = pool.starmap(answered, asked, 1)
    print("| | points | interval holds the truth | median error | highest | lowest | minutes |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for limit, arrival in KINDS:
        chosen = [a for a in answers if (a.case.limit, a.case.arrival) == (limit, arrival)]
        print(_row(f"{arrival}, {limit}", chosen))
    print(_row("all", answers))
    if options.json:
        options.json.write_text("".join(json.dumps(asdict(answer)) + "\n" for answer in answers))


if __name__ == "__main__":
    main()
