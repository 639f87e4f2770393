"""The end of a release, whatever fails on the way to it."""

from pathlib import Path

import pytest
from samples import server

from pytest_llmperf.servers.deployments.kubernetes.__main__ import Deployment


def test_logs_that_cannot_be_kept_leave_no_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for program in ("helm", "kubectl"):
        (tmp_path / program).write_text(f'#!/bin/sh\necho {program} "$@" >>{tmp_path}/called\n')
        (tmp_path / program).chmod(0o755)
    (tmp_path / "file").touch()
    programs = f"helm: {tmp_path}/helm, kubectl: {tmp_path}/kubectl"
    config = server(
        f"{{engine: kubernetes, chart: ./chart, context: c, namespace: demo, url: 'http://10.0.0.1', {programs}}}"
    )
    deployment = Deployment(config, 1, tmp_path / "file" / "a.log")
    deployment.is_ours = True
    deployment.take_down()
    assert "helm uninstall llmperf-a" in (tmp_path / "called").read_text()
    err = capsys.readouterr().err
    assert "cannot be kept: NotADirectoryError" in err
    assert "are gone" in err
