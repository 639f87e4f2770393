"""The runs of one configuration: the facts that decide, small enough to be kept after every run. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.metrics.stats.compliance import LimitRun
from pytest_llmperf.search.strategy.space import Position


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One run of one load on one configuration."""

    load: str
    launch: int
    """Counts from 1: runs on one start of the server share what that start was like."""
    values: Mapping[str, float | None]
    """Values by quantity, in its unit; None where the sample is empty."""
    limits: Mapping[str, LimitRun]
    """The value that the run gives for each limit of the load, by the limit as text."""
    sent: int
    failed: int
    invalid: tuple[str, ...] = ()
    """Reasons why the run is not to be trusted; empty when it is."""
    gpu_memory_gb: float | None = None
    """Peak memory of the fullest GPU in 1e9 bytes; None where it cannot be read."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_facts(data: Mapping[str, Any]) -> RunFacts:
    """The inverse of `RunFacts.as_dict`. KeyError and TypeError for anything else."""
    limits = {
        name: LimitRun(**{**held, "sample": tuple(held.get("sample", ()))}) for name, held in data["limits"].items()
    }
    return RunFacts(**{**data, "limits": limits, "invalid": tuple(data["invalid"])})


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration, with all its runs so far."""

    position: Position
    runs: tuple[RunFacts, ...] = ()
    """Runs in the order in which they were measured."""
    error: str | None = None
    """The first line of the server's own error; None where it has not failed."""
    skipped: str | None = None
    """The reason why this machine cannot run it; None where it can."""
    stopped: str | None = None
    """The reason why it gets no more runs: beyond doubt it breaks a limit, or is worse than another. None: it may
    get more.
    """

    def rounds(self, loads: Sequence[str]) -> int:
        """Valid runs that every one of the loads has."""
        return min((len(self.of(load)) for load in loads), default=0)

    def of(self, load: str) -> tuple[RunFacts, ...]:
        """The load's valid runs."""
        return tuple(run for run in self.runs if run.load == load and not run.invalid)

    @property
    def launches(self) -> int:
        """Number of starts of its server."""
        return max((run.launch for run in self.runs), default=0)

    @property
    def spoiled(self) -> tuple[str, ...]:
        """Reasons why runs are not to be trusted, one a run."""
        return tuple(run.invalid[0] for run in self.runs if run.invalid)

    def values(self, load: str, quantity: Quantity | str) -> tuple[float | None, ...]:
        """Value of a quantity in each run of the load."""
        return tuple(run.values.get(str(quantity)) for run in self.of(load))
