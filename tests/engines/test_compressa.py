"""compressa-perf's files of experiments and its database, on the embedded engine."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_llmperf.cli.main import main
from pytest_llmperf.plan.server.engines.embedded import EmbeddedServer
from pytest_llmperf.servers.start import start_server

CONFIG = """
- model_name: replaced
  experiment_name: "Full"
  description: "two words"
  generate_prompts: true
  num_prompts: 3
  prompt_length: 300
  num_tasks: 6
  num_runners: 2
  max_tokens: 8
  seed: 1
- model_name: replaced
  experiment_name: "From a file"
  description: ""
  prompts_file: prompts.csv
  prompt_length: 0
  num_tasks: 4
  num_runners: 1
  max_tokens: 4
"""


def llmperf(*args: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, list(map(str, args)))
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory):
    config = EmbeddedServer.model_validate(
        {"name": "e", "engine": "embedded", "model": "tiny", "args": {"step": "modelled", "decode-ms-per-step": 1}}
    )
    with start_server(config, tmp_path_factory.mktemp("logs"), ()) as server:
        yield server.url


@pytest.fixture
def folder(tmp_path: Path, any_machine: None) -> Path:
    (tmp_path / "config.yml").write_text(CONFIG)
    (tmp_path / "prompts.csv").write_text('"a prompt, with a comma"\nanother prompt\n')
    return tmp_path


def test_a_history_that_cannot_be_written_is_no_success(url, folder):
    history = folder / "config.yml" / "h.sqlite"
    where = ("--openai-url", url, "--model-name", "tiny", "--history", history, "--output", folder / "out")
    said = llmperf("measure-from-yaml", folder / "config.yml", *where, code=1)
    assert "Error: history was not written: " in said
    assert f"history: {history}" not in said


def test_experiments_land_in_the_history_and_in_the_tools_own_database(url, folder):
    history, db = folder / "h.sqlite", folder / "c.sqlite"
    where = ("--history", history, "--output", folder / "out")
    node = ("--no-sign", "--node_url", url, "--model_name", "tiny", "--db", db)
    llmperf("measure-from-yaml", *node, folder / "config.yml", *where)
    shown = llmperf(
        "history", "list", "--dialect", "compressa", "--show-metrics", "--show-parameters", "--history", history
    )
    for told in (
        "Full",
        "From a file",
        "two words",
        "num_workers: 2",
        "avg_n_output: 8",
        "TTFT_95",
        "FAILED_REQUESTS: 0",
    ):
        assert told in shown
    with sqlite3.connect(db) as sql:
        assert sql.execute("SELECT experiment_name, description FROM Experiments").fetchall() == [
            ("Full", "two words"),
            ("From a file", ""),
        ]
        assert sql.execute("SELECT count(*), min(n_output), max(status) FROM Measurements").fetchone() == (
            10,
            4,
            "success",
        )
        assert sql.execute("SELECT experiment_id, count(*) FROM Measurements GROUP BY 1").fetchall() == [(1, 6), (2, 4)]
        averages = "SELECT avg(ttft), avg(end_time - start_time) FROM Measurements WHERE experiment_id = 1"
        means = sql.execute(averages).fetchone()
        metrics = dict(sql.execute("SELECT metric_name, metric_value FROM Metrics WHERE experiment_id = 1"))
    assert {"TTFT", "TPOT", "THROUGHPUT_OUTPUT_TOKENS", "LONGER_THAN_60_LATENCY", "FAILED_REQUESTS_PER_HOUR"} <= set(
        metrics
    )
    assert (metrics["TTFT"], metrics["LATENCY"]) == pytest.approx(means, rel=1e-3)
    assert len((folder / "out" / "prompts" / "e1.jsonl").read_text().splitlines()) == 6
    # Its own database, taken over: the same experiments under the same names.
    assert "2 sessions" in llmperf("history", "import", db, "--history", folder / "other.sqlite")
    assert "From a file" in llmperf("history", "list", "--history", folder / "other.sqlite")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("num_tasks: 6", "num_tasks: six"), "config.yml:8: experiment 1: num_tasks: a whole number is needed, given"),
        (("num_runners: 2", "num_runner: 2"), "unknown key 'num_runner'; did you mean 'num_runners'?"),
        (("seed: 1", "api_key: sk-secret"), "api_key"),
        (("prompts_file: prompts.csv", "prompts_file: none.csv"), "none.csv"),
        (("generate_prompts: true", "generate_prompts: false"), "neither generate_prompts: true nor a prompts_file"),
        (("- model_name", ": ["), "not valid YAML"),
        (("seed: 1", "num_tasks: 7"), "config.yml:11: 'num_tasks' is given twice"),
        (("prompt_length: 300", "prompt_length: -1"), "config.yml:7: experiment 1: prompt_length"),
        (("prompt_length: 300", "prompt_length: 900000000"), "characters in all"),
        (("num_tasks: 6", "num_tasks: 600000000000"), "config.yml:8: experiment 1: num_tasks: must be less than"),
        (('experiment_name: "Full"', 'experiment_name: ""'), "config.yml:3: experiment 1: experiment_name"),
    ],
)
def test_mistakes_of_a_file_are_told(url, folder, edit, message):
    assert edit[0] in CONFIG
    (folder / "config.yml").write_text(CONFIG.replace(*edit, 1))
    node = ("--no-sign", "--node-url", url, "--model-name", "tiny")
    shown = llmperf("measure-from-yaml", *node, folder / "config.yml", "--history", folder / "h.sqlite", code=1)
    assert message in shown
    assert "sk-secret" not in shown
    assert "Traceback" not in shown


def test_nothing_is_measured_where_a_later_experiment_cannot_be(url, folder):
    (folder / "prompts.csv").unlink()
    node = ("--no-sign", "--node-url", url, "--model-name", "tiny", "--history", folder / "h.sqlite")
    shown = llmperf("measure-from-yaml", *node, "--output", folder / "out", folder / "config.yml", code=1)
    assert "prompts.csv" in shown
    assert "6 requests" not in shown
    assert not (folder / "out").exists()
    assert not (folder / "h.sqlite").exists()


def test_fewer_tasks_than_runners_are_sent_all_at_once(url, folder):
    (folder / "config.yml").write_text(CONFIG.replace("num_runners: 2", "num_runners: 50"))
    where = ("--history", folder / "h.sqlite", "--output", folder / "out")
    llmperf("measure-from-yaml", "--openai_url", f"{url}/v1", "--model_name", "tiny", folder / "config.yml", *where)
    shown = llmperf("history", "list", "--history", folder / "h.sqlite", "--dialect", "compressa", "--show-parameters")
    assert "num_workers: 50" in shown
    assert "num_tasks: 6" in shown


@pytest.mark.parametrize("typed", [("--no-sign", "--node-url"), ("--openai-url",)])
def test_a_server_that_is_typed_takes_the_place_of_the_files(url, folder, typed):
    nowhere = "http://127.0.0.1:9"
    text = CONFIG.replace("- model_name", f"- node_url: {nowhere}\n  openai_url: {nowhere}\n  model_name")
    (folder / "config.yml").write_text(text)
    where = ("--history", folder / "h.sqlite", "--output", folder / "out")
    shown = llmperf("measure-from-yaml", *typed, url, "--model-name", "tiny", folder / "config.yml", *where)
    assert "of 4 requests succeeded" in shown


@pytest.mark.parametrize(
    ("edit", "typed", "message"),
    [
        ("  node_url: http://127.0.0.1:9\n", (), "--no-sign"),
        ("", ("--node-url", "http://a", "--openai-url", "http://b"), "give one of them"),
    ],
)
def test_servers_that_cannot_be_asked_are_a_mistake_in_the_call(folder, edit, typed, message):
    (folder / "config.yml").write_text(CONFIG.replace("  num_tasks", f"{edit}  num_tasks"))
    assert message in llmperf("measure-from-yaml", *typed, folder / "config.yml", code=2)


def test_requests_that_would_have_to_be_signed_are_refused(folder):
    shown = llmperf("measure-from-yaml", "--node-url", "http://127.0.0.1:9", folder / "config.yml", code=2)
    assert "--no-sign" in shown
