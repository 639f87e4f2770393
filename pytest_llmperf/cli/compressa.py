"""`llmperf measure-from-yaml`: compressa-perf's files of experiments, measured by our load driver."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pytest_llmperf.boundary.files import write_at
from pytest_llmperf.cli.input import PATH, PLAN, report, reported, say, server_at
from pytest_llmperf.cli.profile import measured, show
from pytest_llmperf.errors import PlanError
from pytest_llmperf.interchange.compressa.config import Experiment, parse_experiments, sent_prompts
from pytest_llmperf.interchange.compressa.database import Measurement, add_experiment
from pytest_llmperf.metrics.dialects import dialect_metrics
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.plan.load.criteria import with_limits
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.report.files import write_history
from pytest_llmperf.runner.outcomes import RunFolder, default_output
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
    if node_url and not no_sign:
        raise click.UsageError("requests to a node are sent without a signature: say so with --no-sign")
    folder = RunFolder(output or default_output(Path.cwd()), is_new=output is None, dialect=_DIALECT)
    with reported(folder, None):
        experiments = parse_experiments(_read(file), str(file))
        urls = {"node_url": node_url, "openai_url": openai_url, "model_name": model_name}
        given = [one.model_copy(update={k: v for k, v in urls.items() if v}) for one in experiments]
        _check(given)
        folder.claim()
        try:
            results = [_measured(one, f"e{n}", file.parent, folder, api_key_env, db) for n, one in enumerate(given, 1)]
        finally:
            labels = {f"e{number}": _labels(one) for number, one in enumerate(given, 1)}
            if folder.outcomes:
                report(folder, lambda: write_history(folder, history, labels=labels))
    for line in (f"history: {history}", *([f"database: {db}"] if db else [])):
        click.echo(line)
    sys.exit(0 if all(result.valid and not result.metrics.failed for result in results) else 1)


def _measured(
    experiment: Experiment, name: str, beside: Path, folder: RunFolder, api_key_env: str | None, db: Path | None
) -> Result:
    """Measures an experiment, stores and shows it; its files are looked for `beside` the YAML."""
    say(f"{experiment.experiment_name}: {experiment.num_tasks} requests, {experiment.num_runners} at a time")
    result = _measure(experiment, name, beside, folder, api_key_env)
    folder.note(name, experiment.experiment_name)
    if db:
        _add(db, experiment, result)
    show(result, _DIALECT)
    return result


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{file}: cannot be read: {error}") from error


def _check(experiments: list[Experiment]) -> None:
    for experiment in experiments:
        name = experiment.experiment_name
        if not (experiment.node_url or experiment.openai_url):
            raise PlanError(
                f"experiment {name!r} names no server: give --node-url or --openai-url, or openai_url there"
            )
        if not experiment.model_name:
            raise PlanError(f"experiment {name!r} names no model: give --model-name, or model_name there")


def _measure(experiment: Experiment, name: str, folder: Path, run_folder: RunFolder, api_key_env: str | None) -> Result:
    config = server_at(
        experiment.node_url or experiment.openai_url or "",
        engine="openai",
        name="server",
        model=experiment.model_name,
        headers=(),
        bearer_env=api_key_env or _referred(experiment),
    )
    point = _point(experiment, name, sent_prompts(experiment, folder), run_folder.made() / "prompts" / f"{name}.jsonl")
    (result,) = measured(start_server(config, run_folder.log_dir(), (), loads=[point]), [point], 1, run_folder)
    return result


def _referred(experiment: Experiment) -> str | None:
    found = _REFERENCE.fullmatch(experiment.api_key or "")
    return found[1] if found else None


def _point(experiment: Experiment, name: str, prompts: list[str], path: Path) -> LoadPoint:
    """The load of an experiment. Answers end where the model ends them, as those that compressa-perf asks for do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_at(path, "".join(f"{json.dumps({'input': prompt})}\n" for prompt in prompts))
    spec = LoadSpec.model_validate(
        {
            "endpoint": "chat",
            "prompts": {"file": str(path)},
            "output_tokens": experiment.max_tokens,
            "ignore_eos": False,
            "concurrency": experiment.num_runners,
            "requests": experiment.num_tasks,
            "extra_body": {"temperature": None},
            "seed": experiment.seed,
        }
    )
    (point,) = spec.points(name)
    return with_limits((), point)


def _labels(experiment: Experiment) -> Mapping[str, str]:
    told = {"name": experiment.experiment_name, "description": experiment.description or ""}
    return {key: value for key, value in told.items() if value}


def _add(db: Path, experiment: Experiment, result: Result) -> None:
    told = dialect_metrics(_DIALECT, result.runs)
    (run,) = result.runs
    requests = [record for record in run.records if record.phase == "measured" and record.sent_ns is not None]
    rows = [
        Measurement(
            n_input=record.input_tokens or 0,
            n_output=record.output_tokens or 0,
            ttft=(record.chunk_ns[0] - (record.sent_ns or 0)) / 1e9 if record.chunk_ns else 0.0,
            start_time=(record.sent_ns or 0) / 1e9,
            end_time=record.end_ns / 1e9,
            status="success" if record.ok else "failed",
        )
        for record in requests
    ]
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
        {name: metric["value"] for name, metric in told.items() if metric["value"] is not None},
        rows,
    )


def _lengths(rows: list[Measurement]) -> dict[str, Any]:
    import numpy as np

    good = [row for row in rows if row.status == "success"]
    lengths = {"n_input": [row.n_input for row in good], "n_output": [row.n_output for row in good]}
    return {
        f"{kind}_{name}": float(value(counts))
        for name, counts in lengths.items()
        if counts
        for kind, value in (("avg", np.mean), ("std", np.std))
    }
