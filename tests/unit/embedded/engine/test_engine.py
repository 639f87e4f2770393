"""The engine thread: tokens reach the loop, aborted requests leave, and death is seen."""

import asyncio
import logging

import pytest

from pytest_llmperf.embedded.engine.engine import Engine, StepResult
from pytest_llmperf.embedded.engine.scheduler import Request, StepPlan
from pytest_llmperf.embedded.http.metrics import Histogram, Metrics
from pytest_llmperf.embedded.settings import EngineSettings
from pytest_llmperf.embedded.truth import Emission


class Counting:
    """A step that answers with the position, and fails on request."""

    def __init__(self, fail_at: int = -1) -> None:
        self.fail_at = fail_at
        self.runs: list[int] = []

    def execute(self, plan: StepPlan, *, after_idle: bool) -> dict[int, int]:
        if any(work.generated == self.fail_at for work in plan.work):
            raise ValueError("a step went wrong")
        return {work.request.id: work.generated for work in plan.work if work.samples}

    def begin_run(self, index: int) -> None:
        self.runs.append(index)


def drive(
    step: Counting, *requests: Request, abort: tuple[int, ...] = ()
) -> tuple[list[StepResult], list[BaseException]]:
    """Run the engine until every request that is not aborted is finished, or the engine is dead."""
    results: list[StepResult] = []
    deaths: list[BaseException] = []

    async def main() -> None:
        done = asyncio.Event()
        left = {request.id for request in requests} - set(abort)

        def on_step(result: StepResult) -> None:
            results.append(result)
            left.difference_update(token.request_id for token in result.tokens if token.finish_reason)
            if not left and not result.stats.running + result.stats.waiting:
                done.set()

        def on_death(error: BaseException) -> None:
            deaths.append(error)
            done.set()

        engine = Engine(EngineSettings(max_num_seqs=2), step, on_step=on_step, on_death=on_death)
        engine.begin_run(3)
        for request in requests:
            engine.submit(request)
        for request_id in abort:
            engine.abort(request_id)
        engine.start()
        await asyncio.wait_for(done.wait(), 60)
        assert engine.stop(60)
        assert not engine.alive

    asyncio.run(main())
    return results, deaths


def test_every_token_arrives_in_order_with_its_first_schedule():
    step = Counting()
    results, deaths = drive(step, *(Request(i, (1, 2), 5, ignore_eos=True) for i in range(3)))
    tokens = [token for result in results for token in result.tokens]
    for number in range(3):
        mine = [token for token in tokens if token.request_id == number]
        assert [token.token for token in mine] == [0, 1, 2, 3, 4]
        assert [token.finish_reason for token in mine] == [None] * 4 + ["length"]
        assert len({token.first_scheduled_ns for token in mine}) == 1
    assert deaths == []
    assert step.runs == [3]


def test_an_aborted_request_is_not_computed():
    results, _ = drive(Counting(), Request(0, (1,), 5), Request(1, (1,), 5), abort=(0, 77))
    assert {token.request_id for result in results for token in result.tokens} == {1}


def test_a_failing_step_ends_the_engine_and_is_logged_with_its_cause(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.ERROR):
        results, deaths = drive(Counting(fail_at=2), Request(0, (1,), 5))
    assert [token.token for result in results for token in result.tokens] == [0, 1]
    assert [str(error) for error in deaths] == ["a step went wrong"]
    assert "ValueError: a step went wrong" in caplog.text


def test_histograms_are_cumulative_and_include_their_upper_bound():
    histogram = Histogram((0.1, 1.0))
    for value in (0.1, 0.5, 2.0):
        histogram.observe(value)
    assert list(histogram.lines("h", "a=1")) == [
        'h_bucket{le="0.1",a=1} 1.0',
        'h_bucket{le="1.0",a=1} 2.0',
        'h_bucket{le="+Inf",a=1} 3.0',
        "h_count{a=1} 3.0",
        "h_sum{a=1} 2.6",
    ]


def test_a_finished_request_is_counted_in_seconds():
    metrics = Metrics("tiny")
    second = 10**9
    metrics.observe(Emission("r", 0, second, (3 * second, 4 * second, 6 * second), (1, 1, 1), 7), "length")
    text = metrics.render()
    for line in (
        'vllm:request_success_total{engine="0",model_name="tiny",finished_reason="length"} 1.0',
        'vllm:prompt_tokens_total{engine="0",model_name="tiny"} 7.0',
        'vllm:time_to_first_token_seconds_sum{engine="0",model_name="tiny"} 3.0',
        'vllm:request_queue_time_seconds_sum{engine="0",model_name="tiny"} 1.0',
        'vllm:request_prefill_time_seconds_sum{engine="0",model_name="tiny"} 2.0',
        'vllm:request_decode_time_seconds_sum{engine="0",model_name="tiny"} 3.0',
        'vllm:inter_token_latency_seconds_count{engine="0",model_name="tiny"} 2.0',
        'vllm:e2e_request_latency_seconds_sum{engine="0",model_name="tiny"} 6.0',
    ):
        assert line in text.splitlines()
