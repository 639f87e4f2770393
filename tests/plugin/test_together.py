"""Points of one server are measured in turns, and every test gets what is its own."""

from __future__ import annotations

from itertools import pairwise

import pytest
from perf_suite import TEST, Suite, edited

TWO_LOADS = ("-k", "tp1pp1 and (short or 100rps)")


def _order(suite: Suite) -> list[str]:
    """The points' ids in the order of their runs."""
    runs = [(run["started"], point["id"]) for point in suite.points().values() for run in point["runs"]]
    return [point for _, point in sorted(runs)]


def test_points_take_turns(suite: Suite) -> None:
    result = suite.run(*TWO_LOADS, "--llmperf-runs=3", "--llmperf-update-baselines")
    result.assert_outcomes(passed=2)
    order = _order(suite)
    assert len(order) == 10
    assert all(before != after for before, after in pairwise(order))


def test_one_after_the_other_if_asked_for(suite: Suite) -> None:
    suite.run(*TWO_LOADS, "--llmperf-runs=3", "--llmperf-no-interleave", "--llmperf-update-baselines")
    order = _order(suite)
    assert order == sorted(order, key=order.index)
    assert len(set(order[:5])) == 1


def test_servers_do_not_mix(suite: Suite) -> None:
    suite.run("-k", "short", "--llmperf-runs=2", "--llmperf-update-baselines").assert_outcomes(passed=2)
    order = _order(suite)
    assert order == sorted(order, key=order.index)


@pytest.mark.parametrize(
    ("mark", "skipped"),
    [("@pytest.mark.skipif(True, reason='not today')", 2), ("@pytest.mark.xfail(run=False, reason='no')", 0)],
)
def test_what_is_skipped_is_not_measured_on_the_way(suite: Suite, mark: str, skipped: int) -> None:
    other = edited(edited(TEST, "import pytest", ""), "def test_serving", f"{mark}\ndef test_other")
    suite.write(test=TEST + other)
    suite.run(*TWO_LOADS, "--llmperf-update-baselines").assert_outcomes(passed=2, skipped=skipped, xfailed=2 - skipped)
    measured = [point for point in suite.report()["points"] if point.get("runs")]
    assert {point["test"].partition("::")[2].partition("[")[0] for point in measured} == {"test_serving"}


def test_measuring_twice_in_a_test_measures_twice(suite: Suite) -> None:
    again = "    first = load_driver.run(llm_server, load_point)\n    result = "
    check = "    assert first.runs[0].started_ns < result.runs[0].started_ns\n    sla.check(result)"
    suite.write(test=edited(edited(TEST, "    result = ", again), "    sla.check(result)", check))
    suite.run(*TWO_LOADS, "--llmperf-update-baselines").assert_outcomes(passed=2)


def test_a_load_of_the_tests_own_is_measured_for_it_alone(suite: Suite) -> None:
    own = 'load_point.model_copy(update={"requests": 21})'
    suite.write(test=edited(TEST, "(llm_server, load_point)", f"(llm_server, {own})"))
    suite.run(*TWO_LOADS, "--llmperf-update-baselines").assert_outcomes(passed=2)
    sent = [point["metrics"]["requests"]["sent"] for point in suite.report()["points"]]
    assert sent == [5 * 21, 5 * 21]


def test_a_point_that_cannot_be_measured_fails_its_own_test_only(suite: Suite) -> None:
    suite.edit_plan(
        "input_tokens: 8, output_tokens: 4, concurrency", "input_tokens: 99999, output_tokens: 4, concurrency"
    )
    result = suite.run(*TWO_LOADS, "--llmperf-update-baselines")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*ServerError: every warm-up request failed*"])
