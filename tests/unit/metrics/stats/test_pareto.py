"""The Pareto front of throughput against latency."""

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.metrics.stats.pareto import pareto_front


def on_front(*placed):
    front = pareto_front("chat", Quantity("e2e", "p50"), [(name, *place, None) for name, *place in placed])
    return [point.name for point in front.points if point.on_front]


def test_what_another_beats_in_one_and_equals_in_the_other_is_not_on_the_front():
    assert on_front(("slow", 10.0, 9.0), ("fast", 10.0, 5.0), ("much", 20.0, 9.0)) == ["fast", "much"]


def test_points_that_are_equal_are_both_on_the_front():
    assert on_front(("a", 10.0, 5.0), ("b", 10.0, 5.0)) == ["a", "b"]


def test_points_without_a_number_are_left_out():
    front = pareto_front("chat", Quantity("e2e", "p50"), [("a", None, 5.0, True), ("b", 9.0, None, True)])
    assert front.points == ()
