"""Warm until steady, on the embedded engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.load.event_loop import run
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.plan.server.engines.embedded import EmbeddedServer
from pytest_llmperf.records import Run
from pytest_llmperf.runner.measure.measurement import Measurement
from pytest_llmperf.servers.start import start_server

LOAD = {"input_tokens": 8, "output_tokens": 8, "concurrency": 2, "requests": 20}


def server(**args: object) -> EmbeddedServer:
    given = {"step": "modelled", "decode-ms-per-step": 2, **args}
    return EmbeddedServer.model_validate({"name": "e", "engine": "embedded", "model": "tiny", "args": given})


def load(**keys: object):
    return LoadSpec.model_validate({**LOAD, **keys}).points("s")[0]


def measured(folder: Path, point, times: int = 2) -> list[Run]:
    runs: list[Run] = []
    with start_server(server(), folder, ()) as up:
        measurement = Measurement(up, point, "s", runs.append)
        for _ in range(times):
            run(measurement.run())
    return runs


@pytest.mark.usefixtures("any_machine")
def test_the_first_run_of_a_launch_has_what_came_before_it(tmp_path):
    first, second = measured(tmp_path, load())
    assert first.warmup is not None
    assert first.warmup.requests >= 20
    assert first.warmup.seconds > 0
    assert second.warmup is None


@pytest.mark.usefixtures("any_machine")
def test_as_many_requests_as_are_asked_for(tmp_path):
    (only,) = measured(tmp_path, load(warmup={"requests": 25}), times=1)
    assert only.warmup is not None
    assert only.warmup.steady
    assert 25 <= only.warmup.requests < 45


@pytest.mark.parametrize("keys", [{"warmup": "off"}, {"warmup_requests": 3}])
def test_nothing_where_nothing_is_wanted(tmp_path, keys):
    (only,) = measured(tmp_path, load(**keys), times=1)
    assert only.warmup is None


@pytest.mark.usefixtures("any_machine")
def test_a_server_that_is_not_steady_in_time_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("pytest_llmperf.runner.measure.warmup._MOST_BATCHES", 1)
    (only,) = measured(tmp_path, load(warmup="auto"), times=1)
    assert only.warmup is not None
    assert not only.warmup.steady
    assert "ended before the server was steady: too few requests to tell" in "".join(only.notes)
