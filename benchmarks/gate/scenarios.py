"""What is simulated: two load points, four hosts, nine changes. All draws follow from the trial's number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from virtual import Point

from pytest_llmperf.definitions import Quantity, parse_quantity
from pytest_llmperf.embedded.settings import EngineSettings
from pytest_llmperf.metrics.stats.margins import default_margins
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.prompts import Lengths


@dataclass(frozen=True, slots=True)
class Host:
    """Noise knobs of the embedded engine: sds of the log of a factor on every step, and Poisson stalls."""

    session_sd: float
    run_sd: float
    stall_rate_per_s: float = 0.0
    stall_ms: float = 20.0


@dataclass(frozen=True, slots=True)
class Change:
    """What the candidate does otherwise: factors on all costs of a step, on prefill alone, and further stalls."""

    step: float = 1.0
    prefill: float = 1.0
    stall_rate_per_s: float = 0.0
    stall_ms: float = 40.0


HOSTS: Mapping[str, Host] = {
    "typical": Host(0.01, 0.02, stall_rate_per_s=0.02),
    "launch-dominated": Host(0.03, 0.01),
    "quiet": Host(0.003, 0.005),
    "noisy": Host(0.02, 0.04, stall_rate_per_s=0.05, stall_ms=40.0),
}
CHANGES: Mapping[str, Change] = {
    "none": Change(),
    "+3 % step": Change(step=1.03),
    "+5 % step": Change(step=1.05),
    "+10 % step": Change(step=1.10),
    "+20 % step": Change(step=1.20),
    "+30 % prefill": Change(prefill=1.30),
    "40 ms stalls every 2 s": Change(stall_rate_per_s=0.5),
    "−15 % step": Change(step=0.85),
}
INPUT, OUTPUT = Lengths(mean=256, sd=80, min=32, max=600), Lengths(mean=20, sd=5, min=8, max=40)
_LOAD = {"input_tokens": 256, "output_tokens": 20, "requests": 200}
POINTS: Mapping[str, Point] = {
    "closed": Point(LoadPoint(name="closed", concurrency=16, **_LOAD), INPUT, OUTPUT, seed=41),
    "open": Point(LoadPoint(name="open", request_rate=40.0, arrival="poisson", **_LOAD), INPUT, OUTPUT, seed=42),
}
_ENGINE = EngineSettings(step="modelled", max_num_seqs=32, enable_prefix_caching=False)
_STEP_COSTS = ("prefill_ms_per_token", "decode_ms_per_step", "decode_ms_per_seq", "step_overhead_ms")


def gated(point: str) -> dict[Quantity, float]:
    """Quantities and margins that are gated at a point by default."""
    margins = default_margins(open_loop=POINTS[point].load.concurrency is None)
    return {parse_quantity(name): margin for name, margin in margins.items()}


def engine(change: Change, factor: float = 1.0) -> EngineSettings:
    """The engine without noise, every cost of a step times `factor`."""
    costs = {name: getattr(_ENGINE, name) * change.step * factor for name in _STEP_COSTS}
    costs["prefill_ms_per_token"] *= change.prefill
    return replace(_ENGINE, **costs)


def noisy_engine(host: Host, change: Change, seed: int, session: int) -> EngineSettings:
    """The engine of one session. Host and change share a stream of stalls: rates add, the longer counts."""
    rate = host.stall_rate_per_s + change.stall_rate_per_s
    longest = max(host.stall_ms, change.stall_ms) if change.stall_rate_per_s else host.stall_ms
    return replace(
        engine(change),
        noise_seed=seed,
        noise_session=session,
        session_sd=host.session_sd,
        run_sd=host.run_sd,
        stall_rate_per_s=rate,
        stall_ms=longest,
    )
