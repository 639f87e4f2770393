"""How often a limit of a percentile passes that is broken in truth: `python benchmarks/gate/limits.py`.

Requests are drawn from servers whose 99th percentile lies just beyond the limit, run after run until the judgement
asks for no more (8 at most). The rule that takes a limit as kept where all requests keep it by a factor of two is held
against the same judgement without it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from pytest_llmperf.metrics.stats.compliance import LimitRun, SlaCheck, beyond, judge_limit
from pytest_llmperf.plan.limits import Limit

LIMIT = Limit(metric="ttft", stat="p99", op="<=", value=100.0)
TRIALS, FIRST_RUNS, MOST_RUNS = 300, 3, 8
Draw = Callable[[random.Random], float]


def lognormal(sigma: float, share: float) -> Draw:
    """Latencies of which `share` are beyond the limit."""
    z = {0.011: 2.290, 0.015: 2.170, 0.02: 2.054}[share]
    mu = math.log(LIMIT.value) - z * sigma
    return lambda chance: chance.lognormvariate(mu, sigma)


def stalls(share: float) -> Draw:
    """Far below the limit, but for a share of requests that are far beyond: the worst case for the rule."""
    return lambda chance: 500.0 if chance.random() < share else 20.0


SERVERS: dict[str, Draw] = {
    **{f"lognormal {sigma:g}": lognormal(sigma, 0.011) for sigma in (0.25, 0.5, 1.0)},
    **{f"stalls of {100 * share:g} %": stalls(share) for share in (0.011, 0.015, 0.02)},
}


def judged(draw: Draw, requests: int, chance: random.Random, *, with_samples: bool) -> tuple[SlaCheck, int]:
    """The last judgement and the number of runs; without samples the rule has nothing to go by."""
    runs: list[LimitRun] = []
    pooled: list[float] = []
    while True:
        sample = [draw(chance) for _ in range(requests)]
        pooled = sorted([*pooled, *sample])
        over = sum(beyond(LIMIT, value) for value in sample)
        runs.append(LimitRun(max(sample), requests, over, 0, tuple(sample) if with_samples else ()))
        if len(runs) < FIRST_RUNS:
            continue
        found = judge_limit(LIMIT, runs, MOST_RUNS, pooled[math.ceil(0.99 * len(pooled)) - 1])
        if not found.undecided:
            return found, len(runs)


def main() -> None:
    print("| server | requests per run | PASS before (certified) | PASS now (certified) | runs before | now |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, draw in SERVERS.items():
        for requests in (20, 75, 100, 200):
            cells = []
            for with_samples in (False, True):
                chance = random.Random(f"{name} {requests}")
                found = [judged(draw, requests, chance, with_samples=with_samples) for _ in range(TRIALS)]
                passed = [check for check, _ in found if check.verdict == "PASS"]
                certified = sum(check.verified for check in passed)
                runs = sum(count for _, count in found) / TRIALS
                cells.append((f"{len(passed) / TRIALS:.1%} ({certified / TRIALS:.1%})", f"{runs:.2f}"))
            (old, old_runs), (new, new_runs) = cells
            print(f"| {name} | {requests} | {old} | {new} | {old_runs} | {new_runs} |", flush=True)


if __name__ == "__main__":
    main()
