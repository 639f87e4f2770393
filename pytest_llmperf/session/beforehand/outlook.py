"""Facts that baselines tell beforehand: which points have nothing to be compared with, how long a run takes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.errors import BaselineError, LlmPerfError
from pytest_llmperf.gate.baselines.file import read_stored, stored_path
from pytest_llmperf.gate.baselines.fingerprint import identity_of
from pytest_llmperf.gate.baselines.model import assert_alike
from pytest_llmperf.gate.judge import Judge
from pytest_llmperf.gate.load_facts import changed_load
from pytest_llmperf.runner.describe import load_seconds
from pytest_llmperf.runner.program import PlannedTest, Program
from pytest_llmperf.runner.tasks.capacity import sent_hash
from pytest_llmperf.servers.duet import Duet, sides
from pytest_llmperf.servers.engines.commands import lack
from pytest_llmperf.telemetry.environment import environment
from pytest_llmperf.telemetry.gpu import Gpu

_SHOWN = 3
_RATE = Quantity("request_throughput")


def outlook(program: Program, judge: Judge, gpus: Sequence[Gpu]) -> list[str]:
    """Returns a sentence for each of the first points that will fail whatever is measured, and how many more do."""
    runnable = [one for one in program.tests.values() if not any(lack(side, gpus) for side in sides(one.server))]
    found = [f"{one.point_id}: {why}" for one in runnable if (why := _why_lost(one, judge, gpus))]
    more = [f"and {len(found) - _SHOWN} more points cannot be judged"] if len(found) > _SHOWN else []
    return [*found[:_SHOWN], *more]


def _why_lost(planned: PlannedTest, judge: Judge, gpus: Sequence[Gpu]) -> str | None:
    if "baseline" not in planned.gates or isinstance(planned.server, Duet) or judge.recording == "everything":
        return None
    where = environment(planned.server, None, gpus)
    if judge.recording == "missing" and not stored_path(judge.folder, where.slug, planned.test).exists():
        return None
    try:
        stored = read_stored(judge.folder, where.slug, planned.test)
        point = planned.point.of_length(stored.requests or 0)
        load = point.as_dict()
        sent = sent_hash(point) if changed_load(stored.load, load) else stored.identity.trace_hash
        assert_alike(stored, identity_of(planned.server, point, where, sent), load)
    except LlmPerfError as error:  # of a load whose trace cannot be made too
        return str(error)
    return None


def run_seconds(planned: PlannedTest, judge: Judge, gpus: Sequence[Gpu]) -> float | None:
    """Returns how long one run is expected to send, by its load or at the baseline's rate; None where neither tells."""
    seconds, server, point = load_seconds(planned.point), sides(planned.server)[-1], planned.point
    if seconds is not None or point.capacity or not point.requests:
        return seconds
    try:
        stored = read_stored(judge.folder, environment(server, None, gpus).slug, planned.test)
    except BaselineError:
        return None
    rates = [rate for run in stored.runs if (rate := run.get(_RATE))]
    requests = point.of_length(stored.requests or 0).requests or 0
    return requests / statistics.median(rates) if rates else None
