"""Due times of ramps and stages, slots of closed loops, and which requests are cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.load.loops.slots import Slots
from pytest_llmperf.load.trace.arrivals import due_offsets_ns
from pytest_llmperf.load.trace.schedule import Segment, SlotCount, SlotPlan, busiest, cancelled, open_loop, slot_plan
from pytest_llmperf.load.workers import most_workers
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.spec import LoadSpec


def _point(**load: Any) -> LoadPoint:
    return LoadSpec.model_validate({"input_tokens": 8} | load).points("p")[0]


def _due_ms(point: LoadPoint, phase: str = "measured") -> list[float]:
    return [due / 1e6 for of, due in open_loop(point, seed=1) if of == phase]


def test_gamma_of_burstiness_one_is_poisson() -> None:
    assert due_offsets_ns("gamma", 10.0, 50, 3, 1.0) == due_offsets_ns("poisson", 10.0, 50, 3)


@pytest.mark.parametrize("burstiness", [0.25, 0.5, 2.0, 10.0])
def test_gamma_gaps_have_the_mean_and_variation_that_burstiness_says(burstiness: float) -> None:
    gaps = np.diff(due_offsets_ns("gamma", 10.0, 20_000, 3, burstiness)) / 1e9
    assert gaps.mean() == pytest.approx(0.1, rel=0.05)
    assert (gaps.mean() / gaps.std()) ** 2 == pytest.approx(burstiness, rel=0.1)


def test_gamma_is_the_same_on_every_machine_and_version() -> None:
    assert due_offsets_ns("gamma", 10.0, 3, seed=1, burstiness=0.5) == (1_520_000, 37_777_000, 169_709_000)
    assert due_offsets_ns("gamma", 10.0, 3, seed=1, burstiness=4.0) == (157_788_000, 211_986_000, 246_953_000)


@given(st.sampled_from(["constant", "poisson", "gamma"]), st.floats(0.1, 10), st.integers(1, 50), st.integers(0, 50))
def test_more_requests_begin_with_the_same_ones(arrival: Any, burstiness: float, count: int, more: int) -> None:
    offsets = due_offsets_ns(arrival, 10.0, count + more, 5, burstiness)
    assert offsets[:count] == due_offsets_ns(arrival, 10.0, count, 5, burstiness)
    assert list(offsets) == sorted(offsets)


@pytest.mark.parametrize("arrival", ["constant", "poisson", "gamma"])
def test_a_duration_has_every_arrival_before_its_end(arrival: str) -> None:
    longer = _due_ms(_point(request_rate=50, arrival=arrival, requests=200))
    assert _due_ms(_point(request_rate=50, arrival=arrival, duration="2 s")) == [due for due in longer if due < 2000]


def test_a_linear_ramp_has_as_many_arrivals_as_the_area_under_it() -> None:
    point = _point(request_rate=20, requests=4, ramp={"from": 10, "over": "2 s"})
    lead_in = _due_ms(point, "lead-in")
    assert len(lead_in) == 30
    assert _due_ms(point) == [2000.0, 2050.0, 2100.0, 2150.0]
    gaps = np.diff(lead_in)
    assert (np.diff(gaps) < 0).all()
    assert gaps[0] == pytest.approx(100, rel=0.05)
    assert gaps[-1] == pytest.approx(50, rel=0.05)


def test_an_exponential_ramp_doubles_in_equal_times() -> None:
    point = _point(request_rate=400, duration="1 s", ramp={"from": 100, "over": "2 s", "shape": "exponential"})
    lead_in = _due_ms(point, "lead-in")
    first, second = sum(due < 1000 for due in lead_in), sum(due >= 1000 for due in lead_in)
    assert second / first == pytest.approx(2, rel=0.02)
    assert len(_due_ms(point)) == 400


def test_stages_of_rates_follow_each_other() -> None:
    due = _due_ms(_point(stages=[{"request_rate": 2, "duration": "1 s"}, {"request_rate": 4, "duration": "1 s"}]))
    assert due == [0.0, 500.0, 1000.0, 1250.0, 1500.0, 1750.0]


@given(
    st.floats(0.1, 1000), st.floats(0.1, 1000), st.floats(0.01, 100), st.sampled_from(["linear", "exponential"]),
    st.floats(0, 1),
)  # fmt: skip
def test_time_of_a_segment_is_the_inverse_of_its_area(
    start: float, end: float, seconds: float, shape: Any, share: float
) -> None:
    segment = Segment(seconds, start, end, shape)
    assert segment.time_of(0) == 0
    assert segment.time_of(segment.units) == pytest.approx(seconds, rel=1e-4)
    moment = segment.time_of(segment.units * share)
    level = segment.start + (segment.end - segment.start) * moment / seconds
    if shape == "linear":
        assert moment * (segment.start + level) / 2 == pytest.approx(segment.units * share, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(
    ("load", "plan"),
    [
        ({"request_rate": 5, "duration": "1 s"}, None),
        ({"concurrency": 5, "requests": 9}, None),
        ({"concurrency": 5, "duration": "9 s"}, SlotPlan((SlotCount(0, 5), SlotCount(9, 0)), 0, None)),
        (
            {"concurrency": 3, "requests": 9, "ramp": {"from": 1, "over": "4 s"}},
            SlotPlan((SlotCount(0, 1), SlotCount(2, 2), SlotCount(4, 3)), 4, 9),
        ),
        (
            {"concurrency": 4, "duration": "9 s", "ramp": {"from": 1, "over": "4 s", "shape": "exponential"}},
            SlotPlan(
                (SlotCount(0, 1), SlotCount(2, 2), SlotCount(3.1699, 3), SlotCount(4, 4), SlotCount(13, 0)), 4, None
            ),
        ),
        (
            {"concurrency": 1, "duration": "1 s", "ramp": {"from": 3, "over": "4 s"}},
            SlotPlan((SlotCount(0, 3), SlotCount(2, 2), SlotCount(4, 1), SlotCount(5, 0)), 4, None),
        ),
        (
            {"stages": [{"concurrency": 2, "duration": "1 s"}, {"concurrency": 1, "duration": "2 s"}]},
            SlotPlan((SlotCount(0, 2), SlotCount(1, 1), SlotCount(3, 0)), 0, None),
        ),
    ],
)
def test_slots_of_a_closed_loop(load: dict[str, Any], plan: SlotPlan | None) -> None:
    made = slot_plan(_point(**load))
    if plan is None or made is None:
        assert made is plan
        return
    assert (made.ramp_s, made.requests) == (plan.ramp_s, plan.requests)
    assert [level.slots for level in made.levels] == [level.slots for level in plan.levels]
    assert [level.at_s for level in made.levels] == pytest.approx([level.at_s for level in plan.levels], abs=1e-4)


def test_first_request_of_a_slot_fills_the_server_unless_it_joins_for_a_later_stage() -> None:
    async def main() -> list[str]:
        slots = Slots(SlotPlan((SlotCount(0, 2), SlotCount(1, 3), SlotCount(2, 0)), 0, None))
        return [slots.phase(number) for number in (0, 1, 0, 2, 1)]

    assert asyncio.run(main()) == ["lead-in", "lead-in", "measured", "measured", "measured"]


def test_a_loop_of_so_many_requests_after_a_ramp_ends_with_the_last() -> None:
    async def main() -> list[bool]:
        slots = Slots(SlotPlan((SlotCount(0, 1), SlotCount(0, 2)), 0, 2))
        turns = []
        for _ in range(3):
            turns.append(await slots.turn(0))
            slots.phase(0)
        return [*turns, await slots.turn(1)]

    assert asyncio.run(main()) == [True, True, True, False]


@pytest.mark.parametrize(
    ("count", "ramp"),
    [(4, {"from": 1, "over": "700 ms"}), (50, {"from": 1, "over": "30 s", "shape": "exponential"})],
    ids=["linear", "exponential"],
)
def test_a_ramp_is_over_with_its_last_step(count: int, ramp: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The step's time is calculated, and these are a rounding before the ramp's end."""

    async def at_once(seconds: float) -> None:
        """No waiting."""

    async def main() -> list[str]:
        plan = slot_plan(_point(concurrency=count, requests=60, ramp=ramp))
        assert plan is not None
        slots = Slots(plan)
        await slots.run_schedule()
        return [slots.phase(0), slots.phase(0)]

    monkeypatch.setattr(asyncio, "sleep", at_once)
    assert asyncio.run(main()) == ["lead-in", "measured"]


def test_cancelled_requests_are_about_the_share_and_the_same_in_every_run() -> None:
    chosen = cancelled(0.1, 10_000, seed=7)
    assert sum(chosen) == pytest.approx(1000, rel=0.1)
    assert chosen == cancelled(0.1, 10_000, seed=7)
    assert chosen[:10] == cancelled(0.1, 10, seed=7)
    assert all(cancelled(1.0, 1000, seed=7))


def test_busiest_window() -> None:
    due_ms = [0, 10, 20, 300, 301, 302, 303, 900]
    assert busiest([due * 1_000_000 for due in due_ms], 0.1) == 4
    assert busiest([due * 1_000_000 for due in due_ms], 1.0) == len(due_ms)
    assert busiest([], 1.0) == 0


@pytest.mark.parametrize(
    ("load", "one"),
    [
        ({"concurrency": 64, "requests": 64}, False),
        ({"request_rate": 64, "duration": "9 s"}, False),
        ({"concurrency": 64, "duration": "9 s"}, True),
        ({"request_rate": 64, "requests": 64, "max_in_flight": 9}, True),
    ],
)
def test_slots_and_room_are_kept_by_one_process(load: dict[str, Any], one: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(17)))
    assert most_workers(_point(**load)) == (1 if one else 16)
