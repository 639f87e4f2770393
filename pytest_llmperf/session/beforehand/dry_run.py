"""Describes a session for --llmperf-dry-run: every server's command and GPUs, every load's length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pytest_llmperf.load.trace.trace import file_notes
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.runner.describe import counted, describe_load, load_seconds
from pytest_llmperf.servers.duet import Duet, configurations, sides
from pytest_llmperf.servers.engines.commands import missing_requirement, shown_command, shown_proxy, steps
from pytest_llmperf.telemetry.gpu import Gpu


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
    if points:
        yield _totals(points, runs)


def _totals(points: Sequence[tuple[ServerConfig | Duet, LoadPoint]], runs: Callable[[LoadPoint], int]) -> str:
    """The sums of starts, runs, requests and seconds, as far as they can be known without the servers."""
    started = [config for config in configurations(server for server, _ in points) if config.is_started]
    counts = [(load, runs(load) * len(sides(server))) for server, load in points]
    measured = sum(count for _, count in counts)
    requests = sum((load.requests or 0) * count for load, count in counts)
    at_least = "" if all(load.requests and not load.capacity for load, _ in counts) else "at least "
    seconds = [known and known * count for load, count in counts for known in (load_seconds(load),)]
    known_s = sum(filter(None, seconds))
    time = f", {known_s:.0f} s of load" + (" and what takes as long as its server" if None in seconds else "")
    return f"in all: {counted(len(started), 'start')}, {counted(measured, 'run')}, {at_least}{requests} requests{time}"


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
