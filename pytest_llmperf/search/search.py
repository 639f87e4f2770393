"""A whole search, start to end: what the command line and the fixture call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path

from pytest_llmperf.boundary.file_names import file_name
from pytest_llmperf.errors import MissingRequirement, PlanError
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.search import Mode
from pytest_llmperf.plan.server.base import changes_output
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.runner.progress.live import Live
from pytest_llmperf.search.bench import Bench
from pytest_llmperf.search.candidates import Candidates
from pytest_llmperf.search.checkpoint import Checkpoint, read_checkpoint
from pytest_llmperf.search.result import SearchResult, make_result
from pytest_llmperf.search.snippet import launch_command, plan_snippet, server_snippet
from pytest_llmperf.search.strategy import modes
from pytest_llmperf.search.strategy.contest import Contest
from pytest_llmperf.search.strategy.modes import OutOfTrials
from pytest_llmperf.search.strategy.tpe import TRIALS, optuna_missing, tpe
from pytest_llmperf.telemetry.environment import environment
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.telemetry.gpu_memory import memory_readable

_FACTS = ("slug", "engine", "gpus", "driver", "cpu", "cpu_cores", "llmperf")
"""Facts of the environment that a continued search must find unchanged; the engine's version the server says."""

_CAVEATS: Mapping[Mode, str] = {
    "quick": "quick climbs from one configuration to its neighbours and may end on a local optimum: `starts` begins "
    "from more places, `mode: brute` measures all",
    "optuna": "optuna samples: what it did not propose was not measured; `mode: brute` measures all",
}


@dataclass(frozen=True, slots=True)
class SearchRun:
    """The folder, GPUs and checkpoint of a search."""

    session: RunFolder
    gpus: tuple[Gpu, ...]
    plan: Path
    """The plan's file."""
    resume_from: Path | None = None
    """The checkpoint to go on from; None begins anew."""
    live: Live = field(default_factory=Live)
    workers: Callable[[LoadPoint], int | None] = attrgetter("workers")


def checkpoint_name(search: str) -> str:
    """Name of the file in the search's output folder."""
    return f"search-{file_name(search)}.checkpoint.json"


def newest(paths: Iterable[Path]) -> Path | None:
    """The one that was written last; None of none."""
    return max((path for path in paths if path.exists()), key=lambda path: path.stat().st_mtime, default=None)


def run_search(found: Candidates, how: SearchRun, keep: Callable[[SearchResult], None]) -> SearchResult:
    """Searches, and gives the result.

    `keep` gets the result too, as far as it came when the search is interrupted, before that goes on its way.
    MissingRequirement without optuna, PlanError when memory is limited that cannot be read, or when the checkpoint is
    of another plan or environment; nothing was started then.
    """
    _check_needs(found, how.gpus)
    search = _Search(found, how)
    try:
        search.run()
    except BaseException:
        keep(search.result(interrupted=True))
        raise
    finally:
        how.live.clear()
    result = search.result(interrupted=False)
    keep(result)
    return result


def _check_needs(found: Candidates, gpus: Sequence[Gpu]) -> None:
    """Raises before anything is started."""
    if found.spec.mode == "optuna" and (missing := optuna_missing()):
        raise MissingRequirement(f"search {found.name!r}: {missing}")
    for lacking in filter(None, (point.missing for point in found.points)):
        raise lacking
    if found.spec.memory_limit:
        on_cpu = next((config.name for config in found.configs.values() if not config.gpu_count), None)
        reason = memory_readable(gpus) or (f"{on_cpu} uses none" if on_cpu else None)
        if reason:
            raise PlanError(f"search {found.name!r} limits gpu_memory, which cannot be told here: {reason}")


class _Search:
    """One search while it goes on."""

    def __init__(self, found: Candidates, how: SearchRun) -> None:
        self._found, self._how = found, how
        self._plan_text = how.plan.read_text(encoding="utf-8")  # now, since it may be edited meanwhile
        self._checkpoint = _checkpoint(found, how)
        self._bench = Bench(
            found.name,
            found.configs,
            found.points,
            tuple(found.spec.aims),
            checkpoint=self._checkpoint,
            session=how.session,
            gpus=how.gpus,
            live=how.live,
            workers=how.workers,
        )
        trials = found.spec.trials or (TRIALS if found.spec.mode == "optuna" else None)
        self._contest = Contest(found.goal, self._bench.run, found.spec.runs, trials)
        self._notes: list[str] = []
        if names := [axis.name for axis in found.server.axes if changes_output(axis.name)]:
            differ = f"the configurations differ in {', '.join(names)}"
            self._notes.append(f"{differ}, which changes what the model outputs (`unlocked`)")

    def run(self) -> None:
        """Runs the search to its end."""
        spec, space, contest = self._found.spec, self._found.space, self._contest
        try:
            if spec.mode == "brute":
                modes.brute(space, contest)
            elif spec.mode == "quick":
                modes.quick(space, contest, spec.starts)
            else:
                tpe(space, contest, spec.seed)
        except OutOfTrials:
            self._notes.append(f"trials: {contest.trials} ended the search; the space has {len(space)} configurations")
        if contest.held:
            contest.final()
        if len(contest.held) < len(space) and spec.mode in _CAVEATS:
            self._notes.append(_CAVEATS[spec.mode])

    def result(self, *, interrupted: bool) -> SearchResult:
        """The result so far."""
        facts = {**self._checkpoint.environment, "engine_version": self._checkpoint.engine_version}
        notes, bench = list(self._notes), self._bench
        if bench.taken:
            notes.append(f"continued: {bench.taken} runs were measured before, {bench.measured} now")
        result = make_result(self._found, self._contest, facts, interrupted=interrupted, notes=notes)
        return result if result.best is None else self._with_takeaways(result, result.best.name)

    def _with_takeaways(self, result: SearchResult, best: str) -> SearchResult:
        position = next(at for at, config in self._found.configs.items() if config.name == best)
        text, config = self._plan_text, self._found.configs[position]
        return replace(
            result,
            snippet=server_snippet(text, self._found, position),
            plan=plan_snippet(text, self._found, position, self._how.plan.parent.resolve()),
            command=launch_command(config, self._how.gpus),
        )


def _checkpoint(found: Candidates, how: SearchRun) -> Checkpoint:
    """The one to go on with, or a new one."""
    facts = environment(next(iter(found.configs.values())), None, how.gpus).as_dict()
    here, path = {name: facts[name] for name in _FACTS}, how.session.output / checkpoint_name(found.name)
    if how.resume_from is None:
        return Checkpoint(path, found.measured_as(), here)
    return replace(read_checkpoint(how.resume_from, found.measured_as(), here), path=path)
