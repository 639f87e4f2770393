"""Result files of two builds, several runs each, as two results that the gate can hold against each other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_llmperf.interchange.files import ImportedFile, shown_path
from pytest_llmperf.interchange.readers.shared.fields import ImportFileError
from pytest_llmperf.interchange.to_baseline import ImportBaselineError, ReportedTest, Source, check_source
from pytest_llmperf.metrics.result import Result

_SAME_LENGTH = 0.01
"""Share by which mean lengths may differ before a note says so."""


def two_builds(old: Sequence[ImportedFile], new: Sequence[ImportedFile]) -> tuple[Result, Result]:
    """Returns a result per build, named `old` and `new`; a run is one of a file, or the file where it has only totals.

    ImportFileError where a file holds several loads, or another tool wrote it. ImportBaselineError where a file's load
    or model is not that of the first one, its numbers are not to be trusted, or more requests failed than of the old
    build's.
    """
    real = [file.path.resolve() for file in (*old, *new)]
    for file, path in zip((*old, *new), real, strict=True):
        if real.count(path) > 1:  # it would make the verdict surer than it is
            raise ImportFileError(f"{file.path} is given twice; a run counts once")
    first = _only_result(old[0])
    slots = first.load.max_in_flight
    load = {"concurrency": first.load.concurrency, "request_rate": first.load.request_rate, "max_in_flight": slots}
    model = {"model": old[0].found.model or new[0].found.model or "unknown"}
    target = ReportedTest(shown_path(old[0]), {"load": load, "server": model}, first.environment)
    for file in (*old, *new):
        if file.found.tool != old[0].found.tool:
            tools = f"{old[0].path} is of {old[0].found.source}, {file.path} of {file.found.source}"
            raise ImportFileError(f"{tools}: what two clients differ by would be taken for the build's")
        source = Source(shown_path(file), file.found, _only_result(file))
        check_source(source, target)
        if source.result.load.max_in_flight != slots:
            raise ImportBaselineError(f"{source.file} has no max_in_flight, {target.test} has {slots}")
    before, now = _build("old", old), _build("new", new)
    if _failed_share(now) > _failed_share(before):
        shares = f"{_failed_share(now):.2%} with the new build, {_failed_share(before):.2%} with the old one"
        raise ImportBaselineError(f"more requests failed ({shares}): a server is fast while it refuses")
    return before, now


def build_notes(old: Result, new: Result) -> tuple[str, ...]:
    """Facts that a reader of the verdict must know: gaps in the files, and work that was not the same."""
    notes = []
    for name in ("input_tokens", "output_tokens"):
        then, now = (side.metrics.distributions[name].mean for side in (old, new))
        if then and now and abs(now / then - 1) > _SAME_LENGTH:
            notes.append(f"the work differs: {name} was {then:.4g} on average, is {now:.4g}")
    return tuple(dict.fromkeys((*notes, *old.imported, *new.imported)))


def _failed_share(side: Result) -> float:
    sent = sum(summary.sent for summary in side.summaries)
    return sum(summary.failed for summary in side.summaries) / sent if sent else 0.0


def _only_result(file: ImportedFile) -> Result:
    if len(file.results) != 1:
        loads = ", ".join(result.load.name.removeprefix("import-") for result in file.results)
        raise ImportFileError(f"{file.path} holds {len(file.results)} loads ({loads}); give files of one load")
    return file.results[0]


def _build(name: str, files: Sequence[ImportedFile]) -> Result:
    """The first file's result with the runs of all: what the gate reads."""
    results = [_only_result(file) for file in files]
    return replace(
        results[0],
        server=results[0].server.model_copy(update={"name": name}),
        runs=tuple(run for result in results for run in result.runs),
        summaries=tuple(one for result in results for one in (result.summaries or (result.metrics,))),
        imported=tuple(dict.fromkeys(note for result in results for note in result.imported)),
    )
