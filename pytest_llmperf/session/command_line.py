"""The options of the command line and their twins in the ini file: names, help, and which values are refused at once.

Part of every pytest run, as `plugin` is, so it imports nothing heavy before an option asks for it. `options` makes
paths, numbers and defaults of what was given, once there is an llmperf test.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection
from typing import Any

import pytest

_OPTIONS: tuple[tuple[str, str, str], ...] = (
    (
        "update-baselines",
        "flag",
        "Record the baselines that are missing; add sessions that PASS to those that are there",
    ),
    ("update-new", "flag", "Record only the baselines that are missing; points that have one are compared"),
    ("accept", "flag", "Make this session the baseline and the anchor, whatever the verdict would be"),
    ("allow-ci-update", "flag", "Let the update options work where CI or BUILD_NUMBER is set"),
    ("json", "path", "Write the report (llmperf.report/1) to this file too"),
    ("html", "path", "Write the report as one HTML file that opens offline (needs the `report` extra)"),
    ("export", "names", "Write other tools' files too: genai-perf, aiperf, vllm, csv, parquet; several with commas"),
    ("output", "path", "Folder for report, requests and server logs (default: llmperf-results/<time>)"),
    (
        "resume",
        "flag",
        "Continue the session that measured last (or the one in --llmperf-output): its points are not measured again",
    ),
    ("baselines", "path", "Folder of the baselines (default: baselines)"),
    (
        "history",
        "path|off",
        "SQLite file that keeps all sessions (default: llmperf-history.sqlite beside the baselines)",
    ),
    ("dry-run", "flag", "Print what would be started and for how long, and run nothing"),
    ("strict", "flag", "Fail where this machine cannot run a configuration, instead of skipping"),
    ("runs", "int", "First runs per load point, before any that a gate in doubt adds (default: the plan's, else 3)"),
    (
        "gate",
        "default|strict|report-only",
        "strict needs more confidence to fail, report-only never fails (default: the plan's)",
    ),
    (
        "inconclusive",
        "pass|fail|xfail",
        "What becomes of a test whose verdict is INCONCLUSIVE (default: pass, and warn)",
    ),
    (
        "relaunch",
        "auto|never|always",
        "Launch the server anew between runs (default: the plan's, else auto: where needed)",
    ),
    ("budget", "time", "Time for the session's measuring, as in 20m; it ends the runs that a gate in doubt adds"),
    ("no-interleave", "flag", "Measure every point in its own test, instead of those of one server in turns"),
    ("gpu-wait", "time", "How long to wait for GPUs that other sessions on this machine hold (default: 30m)"),
    ("gpu-busy", "share", "Avoid GPUs of whose memory others use more than this (default: 0.1; 1: take any)"),
    ("parallel", "int", "Measure up to so many servers at the same time, where GPUs suffice (default: 1)"),
    ("workers", "auto|n", "Processes of the load driver (default: the load's, else auto: one, and more when needed)"),
    ("dialect", "name", "Report the metrics under another tool's definitions too (docs/metrics.md lists them)"),
)
"""Name, kind, help: of the command line and its ini twins alike."""

_REPORTS = ("output", "json", "html")
"""Options that say where reports go."""


def add_options(parser: pytest.Parser) -> None:
    """Each as `--llmperf-name` and as ini setting `llmperf_name`."""
    group = parser.getgroup("llmperf", "LLM serving performance")
    for name, kind, text in _OPTIONS:
        flag, ini = f"--llmperf-{name}", _ini_name(name)
        if kind == "flag":
            aliases = ["--update-baselines"] if name == "update-baselines" else []
            group.addoption(flag, *aliases, action="store_true", default=None, dest=ini, help=text)
            parser.addini(ini, text, type="bool", default=False)
        else:
            group.addoption(flag, metavar=kind.upper(), default=None, dest=ini, help=text)
            parser.addini(ini, text, default="")
    parser.addini("llmperf_margins", "Tolerated change per metric, as in itl_p50=3%; plans and markers win", "linelist")


def _ini_name(name: str) -> str:
    return f"llmperf_{name.replace('-', '_')}"


def option(config: pytest.Config, name: str) -> Any:
    """Command line, else ini; None or False when neither says anything."""
    given = config.getoption(_ini_name(name), None)
    return given if given is not None else config.getini(_ini_name(name)) or None


def all_options(config: pytest.Config) -> dict[str, Any]:
    """All options by name, with the ini file's lines of margins, for `options.make_options` and `ini_margins`."""
    return {**{name: option(config, name) for name, _, _ in _OPTIONS}, "margins": config.getini("llmperf_margins")}


def set_reports_aside(config: pytest.Config, *, measures: bool) -> str | None:
    """Says what became of an earlier session's reports, now that this one ends before it wrote its own.

    It may be too early for pytest's parsed options. The newest folder's report counts where the session `measures`
    something: reports that it was told to write count in any case.
    """
    from pytest_llmperf.report.files import set_aside
    from pytest_llmperf.runner.outcomes import default_output

    early = config.known_args_namespace
    output, *others = (option(config, name) or getattr(early, _ini_name(name), None) for name in _REPORTS)
    here = config.invocation_params.dir
    newest = default_output(config.rootpath).with_name("latest") if measures else None
    try:
        aside = set_aside(here / output if output else newest, *(here / path for path in others if path))
    except OSError as error:
        return f"llmperf: no report was written, and an earlier one stays: {error}"
    return f"llmperf: no report was written; an earlier one is now {', '.join(map(str, aside))}" if aside else None


def check_options(config: pytest.Config) -> None:
    """UsageError says what was given and what is allowed."""
    given = {name: option(config, name) for name, _, _ in _OPTIONS}
    output = given["output"]
    for name, kind, _ in _OPTIONS:
        problem = None if given[name] is None else _problem(name, kind, given[name])
        if name == "resume" and given[name] and output and (config.invocation_params.dir / output).is_file():
            problem = f"--llmperf-output {output!r} is a file, not the folder of a session"
        if problem:
            raise pytest.UsageError(f"--llmperf-{name} (ini {_ini_name(name)}): {problem}")
    if given["dry-run"] and config.getoption("dist", "no") != "no" and config.getoption("tx", None):
        raise pytest.UsageError(
            "--llmperf-dry-run tells of this process's tests, and xdist's workers have them: add -n0"
        )
    updating = [f"--llmperf-{name}" for name in ("update-baselines", "update-new", "accept") if given[name]]
    if updating and ci_variable() and not given["allow-ci-update"]:
        raise pytest.UsageError(
            f"{' '.join(updating)} is refused in CI ({ci_variable()} is set): a job that records its own "
            "baseline gates nothing. If this job is meant to renew baselines, add --llmperf-allow-ci-update"
        )


def _problem(name: str, kind: str, given: Any) -> str | None:
    """A sentence on what is wrong with the value of an option; None when it is right. Heavy modules are imported
    only for the options that need them.
    """
    if kind in ("int", "auto|n"):
        right = (kind == "auto|n" and given == "auto") or (str(given).isdecimal() and int(given) > 0)
        article = "not a" if kind == "int" else "neither 'auto' nor a"
        if right and name == "runs":
            from pytest_llmperf.plan.load.checks import MOST_RUNS

            return f"{given} runs are more than {MOST_RUNS:,}" if int(given) > MOST_RUNS else None
        return None if right else f"{given!r} is {article} whole number of at least 1"
    if name in ("budget", "gpu-wait", "gpu-busy"):
        from pytest_llmperf.session.options import parse_busy, parse_time

        try:
            (parse_busy if name == "gpu-busy" else parse_time)(given)
        except ValueError as error:
            return str(error)
    needed: tuple[str, ...] = ("plotly", "jinja2") if name == "html" else ()
    allowed: Collection[str] | None = kind.split("|") if "|" in kind and kind != "path|off" else None
    if name == "export":
        from pytest_llmperf.interchange.exports import NAMES as allowed

        needed = ("pyarrow",) if "parquet" in given.split(",") else ()
    if name == "dialect":
        from pytest_llmperf.metrics.dialects import DIALECTS as allowed
    words = str(given).split(",") if kind == "names" else [str(given)]
    wrong = [] if allowed is None else [one for one in words if one not in allowed]
    if allowed is not None and wrong:
        return f"{wrong[0]!r} is not one of {', '.join(allowed)}"
    missing = [module for module in needed if importlib.util.find_spec(module) is None]
    return f"{given} needs {' and '.join(missing)}: pip install 'pytest-llmperf[report]'" if missing else None


def ci_variable() -> str | None:
    """The variable that says we are in CI, by pytest's own rule (set and not empty)."""
    return next((name for name in ("CI", "BUILD_NUMBER") if os.environ.get(name)), None)
