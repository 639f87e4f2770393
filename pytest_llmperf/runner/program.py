"""The tests of a session before they are measured, with everything about them resolved, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pytest_llmperf.plan.load.point import LoadPoint, Relaunch
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.servers.duet import Duet


@dataclass(frozen=True, slots=True)
class PlannedTest:
    """The server, load and runs of a test: options, marker and plan are resolved."""

    test: str
    """Node id of the test."""
    point_id: str
    """Name of the point in reports, as a rule `server-load`."""
    function: str
    """Id of the test function: tests of one function do the same with their points."""
    server: ServerConfig | Duet
    point: LoadPoint
    runs: int
    """Runs to measure first; a gate in doubt asks for more."""
    workers: int | None = None
    """Processes of the load driver; None begins with one and adds where the client's CPU is the limit."""
    relaunch: Relaunch = "auto"
    gates: frozenset[str] = frozenset()
    """`sla`, `baseline`: the fixtures by which it will be judged."""
    margins: Mapping[str, float] = field(default_factory=dict)
    """The marker's margins."""
    conditional: bool = False
    """True if it may be skipped or xfailed, so that it is not measured together with other tests."""


@dataclass(frozen=True, slots=True)
class Program:
    """The tests and servers of a session, in the order of the tests."""

    tests: Mapping[str, PlannedTest]
    """Tests by node id."""
    bare: frozenset[ServerConfig | Duet] = frozenset()
    """Servers that tests ask for other than to measure a point."""
    complete: bool = True
    """True if every test of the collected files was selected."""
    searches: frozenset[str] = frozenset()
    """Node ids of the tests that search a configuration."""

    @property
    def measures(self) -> bool:
        """True if any test starts a server."""
        return bool(self.tests or self.bare or self.searches)

    def of_server(self, server: ServerConfig | Duet) -> list[str]:
        """Node ids of the tests that measure on this server."""
        return [test for test, planned in self.tests.items() if planned.server == server]

    def mates(self, planned: PlannedTest) -> Iterator[PlannedTest]:
        """Yields the other tests whose points may be measured together with this one's, in turns."""
        for other in self.tests.values():
            same = (other.function, other.server) == (planned.function, planned.server)
            if same and other.test != planned.test and not other.conditional and other.point.missing is None:
                yield other
