"""Describes a session for --llmperf-dry-run: every server's command and GPUs, every load's length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pytest_llmperf.load.trace.trace import file_notes
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.runner.describe import describe_load
from pytest_llmperf.runner.program import PlannedTest, Program
from pytest_llmperf.servers.duet import Duet, configurations, sides
from pytest_llmperf.servers.engines.commands import missing_requirement, shown_command, shown_proxy, steps
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.units import counted


def describe_points(
    points: Sequence[tuple[ServerConfig | Duet, LoadPoint]], runs: Callable[[LoadPoint], int], gpus: Sequence[Gpu]
) -> Iterator[str]:
    """Lines for people; `runs` of a point."""
    for server in dict.fromkeys(server for server, _ in points):
        yield from _describe_duet(server, gpus) if isinstance(server, Duet) else _describe_server(server, gpus)
        each = " on each" if isinstance(server, Duet) else ""
        for load in (load for other, load in points if other == server):
            yield f"  {load.name}: {describe_load(load, runs(load))}{each}"
            yield from (f"    {note}" for note in file_notes(load))


def totals(program: Program, run_seconds: Callable[[PlannedTest], float | None]) -> str:
    """The amount of all tests together, as far as it can be known without the servers."""
    tests = list(program.tests.values())
    started = [config for config in configurations(planned.server for planned in tests) if config.is_started]
    counts = [(planned, planned.runs * len(sides(planned.server))) for planned in tests]
    requests = sum((planned.point.requests or 0) * count for planned, count in counts)
    at_least = (
        "" if all(one.point.requests and not (one.point.capacity or one.point.length) for one in tests) else "at least "
    )
    seconds = [(planned, count * known) for planned, count in counts if (known := run_seconds(planned)) is not None]
    load_s = sum(took for _, took in seconds)
    gpu_s = sum(took * sum(side.gpu_count for side in sides(planned.server)) for planned, took in seconds)
    parts = [
        counted(len(started), "start"),
        counted(sum(count for _, count in counts), "run"),
        *([f"{at_least}{requests} requests"] if requests else []),
        *([f"about {load_s:.0f} s of load"] if seconds else []),
        *([f"{gpu_s / 3600:.2g} GPU hours"] if gpu_s else []),
    ]
    if unknown := len(tests) - len(seconds):
        parts.append(f"and {counted(unknown, 'point')} of which nothing tells how long a run takes")
    return f"in all: {', '.join(parts)}"


def _describe_duet(duet: Duet, gpus: Sequence[Gpu]) -> Iterator[str]:
    reason = duet.too_few_gpus(gpus)
    obstacle = f" (cannot run here: {reason})" if reason else ""
    yield f"{duet.name}: both up at the same time, measured in turns{obstacle}"
    yield from _describe_server(duet.a, gpus)
    yield from _describe_server(duet.b, gpus, duet.a.local_gpus)


def _describe_server(server: ServerConfig, gpus: Sequence[Gpu], taken: int = 0) -> Iterator[str]:
    """`taken` GPUs are another server's."""
    if not server.is_started:
        yield f"{server.name}: {shown_command(server, 'PORT', ())} (already up)"
        return
    needed = server.local_gpus
    used = gpus[taken : taken + needed] or tuple(Gpu(str(n), "") for n in range(needed))
    reason = missing_requirement(server, gpus)
    where = "" if server.is_local else f" of {server.machine}"
    gpus_needed = counted(server.gpu_count, "GPU") + " needed"
    yield f"{server.name}: {gpus_needed}{where}{f' (cannot run here: {reason})' if reason else ''}"
    if lines := steps(server):
        yield from (f"  {line}" for line in lines)
        return
    share = needed // server.replicas
    for number in range(server.replicas):
        yield f"  {shown_command(server, 'PORT', used[number * share : (number + 1) * share])}"
    if line := shown_proxy(server):
        yield f"  {line}"
