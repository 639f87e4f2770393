"""The options of the command line and the ini file, resolved: paths, defaults, numbers, and those that win over a plan.

Names and help of the options are in `command_line`, which every pytest run imports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.load.point import LoadPoint, Relaunch, parse_margins
from pytest_llmperf.runner.outcomes import default_output
from pytest_llmperf.runner.resume.files import newest_session
from pytest_llmperf.servers.process.gpu_pool import SHARING, GpuSharing
from pytest_llmperf.units import parse_ratio, parse_seconds


@dataclass(frozen=True, slots=True)
class Options:
    """Command line and ini, resolved; the methods say what comes of it where a marker or a plan has a say too."""

    update_baselines: bool
    update_new: bool
    accept: bool
    json: Path | None
    html: Path | None
    exports: tuple[str, ...]
    """Names of interchange.exports.NAMES."""
    output: Path
    resume: bool
    baselines: Path
    history: Path | None
    """SQLite file of all sessions; None: this one is not kept."""
    strict: bool
    runs: int | None
    no_interleave: bool
    inconclusive: Literal["pass", "fail", "xfail"]
    relaunch: Relaunch | None
    budget_s: float | None
    dialect: str | None
    workers: int | Literal["auto"] | None
    sharing: GpuSharing
    parallel: int
    """Servers that are measured at the same time."""

    def runs_of(self, point: LoadPoint, marker_runs: int | None = None) -> int:
        """Runs of a point: as many as stability takes at most, else the option, the marker, the plan, the default."""
        return point.first_runs(self.runs or marker_runs)

    def workers_of(self, point: LoadPoint) -> int | None:
        """Processes of the load driver: the option, the load's; None is auto."""
        return point.workers if self.workers is None else None if self.workers == "auto" else self.workers

    def relaunch_of(self, point: LoadPoint) -> Relaunch:
        """The rule for relaunches between runs: the option's, the plan's, or auto."""
        return self.relaunch or point.relaunch or "auto"


def make_options(given: Mapping[str, Any], root: Path, invoked_from: Path) -> Options:
    """`given` by their names without the prefix; None or empty where nothing was said.

    Paths count from where pytest was started.
    """

    def path(name: str) -> Path | None:
        return invoked_from / given[name] if given[name] else None

    new, workers, wait, busy = default_output(root), given["workers"], given["gpu-wait"], given["gpu-busy"]
    return Options(
        update_baselines=bool(given["update-baselines"]),
        update_new=bool(given["update-new"]),
        accept=bool(given["accept"]),
        json=path("json"),
        html=path("html"),
        exports=tuple(given["export"].split(",")) if given["export"] else (),
        output=path("output") or (newest_session(new.parent) if given["resume"] else None) or new,
        resume=bool(given["resume"]),
        baselines=path("baselines") or root / "baselines",
        history=_history(given["history"], path("baselines") or root / "baselines", invoked_from),
        strict=bool(given["strict"]),
        runs=int(given["runs"]) if given["runs"] else None,
        no_interleave=bool(given["no-interleave"]),
        inconclusive=given["inconclusive"] or "pass",
        relaunch=given["relaunch"],
        budget_s=parse_time(given["budget"]) if given["budget"] else None,
        dialect=given["dialect"],
        workers="auto" if workers == "auto" else int(workers) if workers else None,
        sharing=GpuSharing(
            wait_s=parse_time(wait) if wait else SHARING.wait_s,
            busy_share=parse_busy(busy) if busy else SHARING.busy_share,
        ),
        parallel=int(given["parallel"] or 1),
    )


def _history(given: str | None, baselines: Path, invoked_from: Path) -> Path | None:
    if given == "off":
        return None
    return invoked_from / given if given else baselines.parent / "llmperf-history.sqlite"


def parse_time(given: str) -> float:
    """A time in seconds; `20m` is what people write for minutes on a command line. ValueError says what is allowed."""
    return parse_seconds(re.sub(r"(?<=[\d.])\s*m$", " min", given.strip()))


def parse_busy(given: str) -> float:
    """A share of a GPU's memory, 0 to 1. ValueError says what is allowed."""
    if (share := parse_ratio(given)) > 1:
        raise ValueError(f"{given!r} is more than all of it; write '{share:g}%'")
    if share < 0:
        raise ValueError(f"{given!r} is less than nothing; write a share from 0% to 100%")
    return share


def ini_margins(lines: Sequence[str]) -> Mapping[str, float]:
    """The margins in the ini file's lines; PlanError says what is wrong."""
    pairs = [part.partition("=") for line in lines for part in line.split(",") if part.strip()]
    return checked_margins({name.strip(): value.strip() for name, _, value in pairs}, "ini llmperf_margins")


def checked_margins(given: object, where: str) -> Mapping[str, float]:
    """Checked as a plan's are; PlanError says what is wrong."""
    try:
        return parse_margins(given)
    except ValueError as error:
        raise PlanError(f"{where}: {error}") from error
