"""compressa-perf's database: what is read of one that it wrote, and of one that was damaged."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pytest_llmperf.history.compressa import session_of_experiment
from pytest_llmperf.interchange.compressa.database import (
    CompressaError,
    StoredRequest,
    add_experiment,
    read_experiments,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "compressa-perf-db.sqlite"
    rows = [StoredRequest(100, 10, 0.1, 1000.0 + n, 1001.0 + n, "success") for n in range(3)]
    date = datetime(2026, 1, 1, tzinfo=UTC)
    add_experiment(path, "short", date, "tp8", {"num_workers": "4", "num_tasks": "3"}, {"TTFT": 0.1}, rows)
    return path


def change(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as sql:
        sql.execute(statement)


def test_an_experiment_has_its_parameters_by_both_names(path):
    (experiment,) = read_experiments(path)
    (point,) = session_of_experiment(experiment).points
    assert point.parameters["num_workers"] == point.parameters["load.concurrency"] == "4"
    assert point.values["ttft_mean"] == pytest.approx(100)
    assert point.dialect["metrics"] == {"TTFT": {"value": 0.1}}


def test_a_table_with_more_columns_is_read(path):
    change(path, "ALTER TABLE Experiments ADD COLUMN owner TEXT DEFAULT 'me'")
    assert [experiment.name for experiment in read_experiments(path)] == ["short"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE Measurements SET ttft = 'abc' WHERE id = 2", "'abc'"),
        ("UPDATE Measurements SET end_time = ''", "could not convert"),
        ("UPDATE Measurements SET ttft = 9e999", "inf is no number"),
        ("UPDATE Metrics SET metric_value = 'nan'", "nan is no number"),
        ("UPDATE Experiments SET experiment_date = 'yesterday'", "yesterday"),
        ("UPDATE Experiments SET experiment_date = '0001-01-01 00:00:00'", "before there were any"),
        ("DROP TABLE Metrics", "no such table: Metrics"),
    ],
)
def test_a_damaged_database_is_told_with_its_name_and_what_is_wrong(path, damage, message):
    change(path, damage)
    with pytest.raises(CompressaError) as error:
        list(read_experiments(path))
    assert str(path) in str(error.value)
    assert message in str(error.value)
