"""Chooses the replica of a request, where the load driver itself spreads a load over several."""

from __future__ import annotations

from pytest_llmperf.plan.server.base import Balance


class Balancer:
    """Chooses among `count` replicas, numbered from 0, by what this process has in flight on each.

    `least-inflight` takes the replica with the fewest, in turns where several have, `round-robin` the next one.
    `session` is `least-inflight` of whole conversations: all turns of one go to the replica that has its prefix.
    """

    def __init__(self, count: int, balance: Balance, first: int = 0) -> None:
        """`first` is where the turns begin: processes that share a load must not all begin at the same replica."""
        self.keeps_sessions = balance == "session"
        self._in_turns = balance == "round-robin"
        self._in_flight = [0] * count
        self._next = first % count

    def choose(self) -> int:
        """Returns the replica of the next request, which is in flight from now on."""
        count, number = len(self._in_flight), self._next
        if not self._in_turns:
            fewest = min(self._in_flight)
            while self._in_flight[number] != fewest:
                number = (number + 1) % count
        self._next = (number + 1) % count
        self._in_flight[number] += 1
        return number

    def ended(self, number: int) -> None:
        """Notes that a request to this replica is in flight no longer."""
        self._in_flight[number] -= 1
