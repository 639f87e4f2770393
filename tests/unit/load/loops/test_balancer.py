"""Which replica a request goes to."""

import pytest

from pytest_llmperf.load.loops.balancer import Balancer


def test_the_replica_with_the_fewest_in_flight_is_next():
    balancer = Balancer(3, "least-inflight")
    assert [balancer.choose() for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    balancer.ended(1)
    balancer.ended(1)
    balancer.ended(2)
    assert [balancer.choose() for _ in range(3)] == [1, 2, 1]


def test_one_after_the_other_whatever_is_in_flight():
    balancer = Balancer(2, "round-robin")
    assert [balancer.choose() for _ in range(3)] == [0, 1, 0]
    balancer.ended(1)
    assert [balancer.choose() for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("balance", ["least-inflight", "round-robin", "session"])
def test_processes_that_share_a_load_begin_at_replicas_of_their_own(balance):
    assert [Balancer(3, balance, first).choose() for first in range(4)] == [0, 1, 2, 0]
    assert Balancer(1, balance, 2).choose() == 0
