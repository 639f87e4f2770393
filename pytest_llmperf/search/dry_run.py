"""Describes the course of a search before it begins, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_llmperf.runner.describe import describe_load
from pytest_llmperf.search.candidates import Candidates
from pytest_llmperf.search.snippet import launch_command
from pytest_llmperf.servers.engines.commands import missing_requirement
from pytest_llmperf.telemetry.gpu import Gpu


def describe(found: Candidates, gpus: Sequence[Gpu]) -> Iterator[str]:
    """Axes, loads, limits, and every configuration's command, or why it would be skipped."""
    spec = found.spec
    aims = " + ".join(name if weight == 1 else f"{weight:g} x {name}" for name, weight in spec.objective.items())
    yield f"search {found.name}: {spec.mode} over {len(found.space)} configurations of {spec.server}, for {aims}"
    for axis in found.server.axes:
        yield f"  {axis.name}: {', '.join(map(str, axis.values))}"
    for point in found.points:
        limits = ", ".join(map(str, point.sla)) or "no limits"
        yield f"  {point.name}: {describe_load(point, spec.runs)}; {limits}"
    if spec.memory_limit:
        yield f"  {spec.memory_limit}"
    for config in found.configs.values():
        reason = missing_requirement(config, gpus)
        yield f"{config.name}: {f'skipped: {reason}' if reason else launch_command(config, gpus)}"
