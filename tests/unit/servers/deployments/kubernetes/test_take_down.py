"""The end of a release, whatever fails on the way to it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from samples import server

from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.servers.deployments.kubernetes import engine
from pytest_llmperf.servers.deployments.kubernetes.__main__ import Deployment

SIGNALLED = """
import os, signal, sys
from pytest_llmperf.servers.deployments.kubernetes.__main__ import main

def interrupt(frame, event, argument):
    if event == "call" and frame.f_code.co_name == "ignore_signals":
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGTERM)

sys.setprofile(interrupt)
main(sys.argv[1:])
"""


def config_with_programs(folder: Path, **more: str) -> ServerConfig:
    """A release whose `helm` and `kubectl` only write down how they were called, in the file `called`."""
    for program in ("helm", "kubectl"):
        (folder / program).write_text(f'#!/bin/sh\necho {program} "$@" >>{folder}/called\n')
        (folder / program).chmod(0o755)
    entry = {"helm": f"{folder}/helm", "kubectl": f"{folder}/kubectl", "url": "'http://10.0.0.1'", **more}
    given = "".join(f", {name}: {value}" for name, value in entry.items())
    return server(f"{{engine: kubernetes, chart: ./chart, context: c, namespace: demo{given}}}")


def test_logs_that_cannot_be_kept_leave_no_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_with_programs(tmp_path)
    (tmp_path / "file").touch()
    deployment = Deployment(config, 1, tmp_path / "file" / "a.log")
    deployment.is_ours = True
    deployment.take_down()
    assert "helm uninstall llmperf-a" in (tmp_path / "called").read_text()
    err = capsys.readouterr().err
    assert "cannot be kept: NotADirectoryError" in err
    assert "are gone" in err


def test_a_cluster_that_hangs_is_asked_for_no_log_when_the_time_for_them_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release would stay: the holder is killed when its own time is over."""
    config = config_with_programs(tmp_path)
    hanging = 'case " $* " in *" logs "* | *" events "*) exec sleep 600 ;; esac'
    (tmp_path / "kubectl").write_text(f"#!/bin/sh\n{hanging}\n")
    monkeypatch.setattr(engine, "COLLECTING_S", 0.0)
    deployment = Deployment(config, 1, tmp_path / "a.log")
    deployment.is_ours = True
    statuses = [{"name": f"c{number}"} for number in range(3)]
    deployment.pods = [{"metadata": {"name": "p", "uid": "u"}, "status": {"containerStatuses": statuses}}]
    deployment.take_down()
    assert "helm uninstall llmperf-a" in (tmp_path / "called").read_text()
    kept = (tmp_path / "a.pods.log").read_text().splitlines()
    assert kept[:2] == ["==> pod p, container c0 <==", f"[{tmp_path}/kubectl did not end in time]"]


def test_a_node_that_hangs_costs_the_logs_of_its_own_pod_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_with_programs(tmp_path)
    event = {"involvedObject": {"name": "p1"}, "reason": "Evicted", "message": "its node is gone"}
    (tmp_path / "events.json").write_text(json.dumps({"items": [event]}))
    answers = f"""case " $* " in
*" logs p0 "*) exec sleep 600 ;;
*" logs p1 "*) echo why ;;
*" events "*) cat {tmp_path}/events.json ;;
esac"""
    (tmp_path / "kubectl").write_text(f"#!/bin/sh\n{answers}\n")
    monkeypatch.setattr(engine, "COLLECTING_S", 4.0)
    deployment = Deployment(config, 1, tmp_path / "a.log")
    deployment.is_ours = True
    deployment.pods = [
        {"metadata": {"name": name, "uid": name}, "status": {"containerStatuses": [{"name": "c"}]}}
        for name in ("p0", "p1")
    ]
    deployment.take_down()
    kept = (tmp_path / "a.pods.log").read_text()
    assert f"==> pod p0, container c <==\n[{tmp_path}/kubectl did not end in time]" in kept
    assert "==> pod p1, container c <==\nwhy\n" in kept
    assert "==> p1 Evicted: its node is gone" in kept


def test_a_signal_in_the_moment_of_taking_down_leaves_no_release(tmp_path: Path) -> None:
    config = config_with_programs(tmp_path, ready_timeout="0.1 s")
    with engine.placed(config, tmp_path / "a.log") as place:
        subprocess.run([sys.executable, "-c", SIGNALLED, str(place.settings)], check=False, capture_output=True)
    called = (tmp_path / "called").read_text()
    assert "helm upgrade --install llmperf-a" in called
    assert "helm uninstall llmperf-a" in called
