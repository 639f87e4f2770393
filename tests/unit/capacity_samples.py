"""Made-up capacity searches."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

from samples import plan_text

from pytest_llmperf.gate.baselines.growth import recorded, stored_session
from pytest_llmperf.gate.baselines.parse import parse_baseline
from pytest_llmperf.gate.baselines.text import baseline_text
from pytest_llmperf.gate.regression import gated_margins, gated_series
from pytest_llmperf.gate.verdict import judge
from pytest_llmperf.metrics.capacity.answer import Capacity
from pytest_llmperf.metrics.capacity.bracket import BracketStart, LevelTrial, concluded, most_levels, next_level
from pytest_llmperf.metrics.capacity.level import Execution, judge_level
from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.plan.load.capacity import CapacitySpec

LOAD = "{input_tokens: 8, output_tokens: 4, requests: 60, capacity: %s%s}"
RATES = '{request_rate: "1:200", sla: {ttft_p50: "<= 20 ms"}}'


def loads(capacity: str = RATES, more: str = "", rest: str = ""):
    text = plan_text(loads=f"  s: {LOAD % (capacity, more)}", rest=rest)
    return parse_plan(text, "plan.yaml").load_points()


def asked(capacity: str = RATES) -> CapacitySpec:
    (point,) = loads(capacity)
    return point.capacity


def trial(spec: CapacitySpec, level: float, threshold: float, steepness: float = 3.0) -> LevelTrial:
    """A server whose TTFT reaches the limit at `threshold`."""
    limit = spec.sla[0]
    value = limit.value * (level / threshold) ** steepness
    verdict = "HOLDS" if value <= limit.value else "FAILS"
    return LevelTrial(level, verdict, True, f"ttft {value:.3g}", ((limit, value),), figures={"ttft_p50": value})


def searched(spec: CapacitySpec, threshold: float, start: BracketStart | None = None, ceiling: float = math.inf):
    trials: list[LevelTrial] = []
    while (level := next_level(spec, trials, start, ceiling)) is not None:
        trials.append(trial(spec, level, threshold))
        assert len(trials) <= 3 * most_levels(spec), "a search ends"
    return concluded(trials, spec)


def capacity(*thresholds: float, spec: CapacitySpec | None = None) -> Capacity:
    spec = spec or asked()
    return Capacity(spec, tuple(searched(spec, threshold) for threshold in thresholds))


def level(*executions: Execution) -> LevelTrial:
    return judge_level(20, asked().sla, executions)


def baseline(found):
    session = stored_session(found, datetime(2026, 1, 2, tzinfo=UTC), None)
    made = recorded(Path("b.json"), "t", found, session, gated_margins(found.load, {}))
    return parse_baseline(baseline_text(made), made.path)


def verdict(then, now) -> str:
    series, _ = gated_series(baseline(then), now, gated_margins(now.load, {}))
    return judge({"t": series})["t"].verdict
