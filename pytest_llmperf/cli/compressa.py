"""`llmperf measure-from-yaml`: compressa-perf's files of experiments, measured by our load driver."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import click

from pytest_llmperf.boundary.files import inside, read_text, write_whole
from pytest_llmperf.cli.input import PATH, PLAN, report, reported, say, server_at
from pytest_llmperf.cli.profile import measured, show
from pytest_llmperf.errors import PlanError
from pytest_llmperf.interchange.compressa.config import Experiment, parse_experiments, sent_prompts
from pytest_llmperf.interchange.compressa.database import StoredRequest, add_experiment
from pytest_llmperf.metrics.dialects import dialect_metrics, with_answer
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.plan.load.criteria import with_limits
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.records import RequestRecord
from pytest_llmperf.report.files import write_history
from pytest_llmperf.runner.outcomes import RunFolder, default_output
from pytest_llmperf.servers.readiness import check_listening
from pytest_llmperf.servers.start import start_server

_REFERENCE = re.compile(r"\$\{(\w+)\}")
_DIALECT = "compressa"


@click.command("measure-from-yaml")
@click.argument("file", type=PLAN)
@click.option("--node-url", "--node_url", "--seed-url", "--seed_url", "node_url", help="The node, as http://IP:PORT")
@click.option("--openai-url", "--openai_url", "openai_url", help="The server, as http://localhost:8000/v1")
@click.option("--model-name", "--model_name", "model_name", help="In place of the file's")
@click.option("--no-sign", "--no_sign", "no_sign", is_flag=True, help="Requests to the node are not signed")
@click.option("--api-key-env", metavar="NAME", help="Environment variable with the key  [default: the file's ${NAME}]")
@click.option("--account-address", "--account_address", "account", help="Of signed requests: not used with --no-sign")
@click.option("--db", type=PATH, help="Add the experiments to this database of compressa-perf too")
@click.option("--history", "history", type=PATH, default=Path("llmperf-history.sqlite"), show_default=True)
@click.option("--output", type=PATH, help="Folder for report and requests")
def measure_from_yaml(
    file: Path,
    node_url: str | None,
    openai_url: str | None,
    model_name: str | None,
    no_sign: bool,
    api_key_env: str | None,
    account: str | None,
    db: Path | None,
    history: Path,
    output: Path | None,
) -> None:
    """Measure the experiments of FILE, compressa-perf's YAML, one after the other.

    They land in the history, which `llmperf history list --dialect compressa --show-metrics --show-parameters` shows
    with compressa-perf's names. Exit status as of `llmperf profile`.
    """
    if node_url and openai_url:
        raise click.UsageError("--node-url and --openai-url name a server each; give one of them")
    folder = RunFolder(output or default_output(Path.cwd()), is_new=output is None, dialect=_DIALECT)
    with reported(folder, None):
        experiments = parse_experiments(_read(file), str(file))
        urls = {"node_url": node_url, "openai_url": openai_url} if node_url or openai_url else {}
        typed = urls | ({"model_name": model_name} if model_name else {})
        given = [one.model_copy(update=typed) for one in experiments]
        tasks = [_task(f"e{n}", one, file.parent, no_sign, api_key_env) for n, one in enumerate(given, 1)]
        folder.claim()
        labels = {task.name: _labels(task.experiment) for task in tasks}
        results = []
        try:
            for task in tasks:
                results.append(_measured(task, folder, db))
                # Kept at once: a session that is killed has lost the experiment that it was at, and none before.
                report(folder, lambda: write_history(folder, history, labels=labels), "history")
        finally:
            if len(folder.outcomes) > len(results):
                report(folder, lambda: write_history(folder, history, labels=labels), "history")
    for line in (*dict.fromkeys(folder.written), *([f"database: {db}"] if db else [])):
        click.echo(line)
    fine = all(result.valid and not result.metrics.failed for result in results)
    sys.exit(0 if folder.is_whole and fine else 1)


class _Task(NamedTuple):
    """An experiment with all that is needed to measure it."""

    name: str
    experiment: Experiment
    url: str
    server: ServerConfig
    prompts: Sequence[str]
    """Texts in the order in which they are sent."""


def _task(name: str, experiment: Experiment, beside: Path, no_sign: bool, api_key_env: str | None) -> _Task:
    """The experiment's files are looked for `beside` the YAML. PlanError and UsageError say what is missing."""
    url, called = experiment.node_url or experiment.openai_url, f"experiment {experiment.experiment_name!r}"
    if not url:
        raise PlanError(f"{called} names no server: give --node-url or --openai-url, or openai_url there")
    if experiment.node_url and not no_sign:
        raise click.UsageError(f"{called}: requests to a node are sent without a signature: say so with --no-sign")
    if not experiment.model_name:
        raise PlanError(f"{called} names no model: give --model-name, or model_name there")
    server = server_at(
        url,
        engine="openai",
        name="server",
        model=experiment.model_name,
        headers=(),
        bearer_env=api_key_env or _referred(experiment),
    )
    return _Task(name, experiment, url, server, sent_prompts(experiment, beside))


def _measured(task: _Task, folder: RunFolder, db: Path | None) -> Result:
    """Measures an experiment, stores and shows it."""
    experiment = task.experiment
    say(f"{experiment.experiment_name}: {experiment.num_tasks} requests, {experiment.num_runners} at a time")
    check_listening(task.url)
    point = _point(task, inside(folder.made(), "prompts", f"{task.name}.jsonl"))
    (result,) = measured(start_server(task.server, folder.log_dir(), (), loads=[point]), [point], 1, folder)
    folder.note(task.name, experiment.experiment_name)
    if db:
        _add(db, experiment, result)
    show(result, _DIALECT)
    return result


def _read(file: Path) -> str:
    try:
        return read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{file}: cannot be read: {error}") from error


def _referred(experiment: Experiment) -> str | None:
    found = _REFERENCE.fullmatch(experiment.api_key or "")
    return found[1] if found else None


def _point(task: _Task, path: Path) -> LoadPoint:
    """The load of an experiment. Answers end where the model ends them, as those that compressa-perf asks for do.

    The first request of each runner is the lead-in, and one of the experiment's tasks where runners have more of them.
    """
    experiment = task.experiment
    slots = min(experiment.num_runners, experiment.num_tasks)
    after = experiment.num_tasks - slots
    write_whole(path, "".join(f"{json.dumps({'input': prompt})}\n" for prompt in task.prompts))
    spec = LoadSpec.model_validate(
        {
            "endpoint": "chat",
            "prompts": {"file": str(path)},
            "output_tokens": experiment.max_tokens,
            "ignore_eos": False,
            "concurrency": slots,
            "requests": after if after >= slots else experiment.num_tasks,
            "extra_body": {"temperature": None},
            "seed": experiment.seed,
        }
    )
    (point,) = spec.points(task.name)
    return with_limits((), point)


def _labels(experiment: Experiment) -> Mapping[str, str]:
    labels = {
        "name": experiment.experiment_name,
        "description": experiment.description or "",
        "num_workers": str(experiment.num_runners),
        "num_tasks": str(experiment.num_tasks),
    }
    return {key: value for key, value in labels.items() if value}


def _add(db: Path, experiment: Experiment, result: Result) -> None:
    found = dialect_metrics(_DIALECT, result.runs)
    (run,) = result.runs
    rows = list(map(_row, run.records))
    parameters = {
        "num_workers": experiment.num_runners,
        "num_tasks": experiment.num_tasks,
        "openai_url": experiment.node_url or experiment.openai_url,
        "max_tokens": experiment.max_tokens,
        "model_name": experiment.model_name,
        **_lengths(rows),
    }
    add_experiment(
        db,
        experiment.experiment_name,
        datetime.fromtimestamp(run.started_ns / 1e9, UTC),
        experiment.description or "",
        {key: str(value) for key, value in parameters.items()},
        {name: metric["value"] for name, metric in found.items() if metric["value"] is not None},
        rows,
    )


def _row(record: RequestRecord) -> StoredRequest:
    """A request as the tool's formulas read it, so that its own recomputation gives the metrics that stand beside."""
    sent_ns = record.end_ns if record.sent_ns is None else record.sent_ns
    seen = with_answer(record)
    return StoredRequest(
        n_input=record.input_tokens or 0,
        n_output=record.output_tokens or 0,
        ttft=(seen[0] - sent_ns) / 1e9 if seen else 0.0,
        start_time=sent_ns / 1e9,
        end_time=record.end_ns / 1e9,
        status="success" if record.ok else "failed",
    )


def _lengths(rows: list[StoredRequest]) -> dict[str, Any]:
    import numpy as np

    good = [row for row in rows if row.status == "success"]
    lengths = {"n_input": [row.n_input for row in good], "n_output": [row.n_output for row in good]}
    return {
        f"{kind}_{name}": float(value(counts))
        for name, counts in lengths.items()
        if counts
        for kind, value in (("avg", np.mean), ("std", np.std))
    }
