"""Files in the way, and files that lead elsewhere"""

import fcntl
import json
import os

import pytest
from arrangements import of_own, on_url
from fault import Fault, check, rows
from sandbox import TEST_WITH_BASELINE

_MINE = "MINE"


def _with_link(name, target="victim.txt"):
    """Something in the output folder is a link to what is not ours."""

    def run(sandbox):
        sandbox.write("victim.txt", _MINE)
        sandbox.write("elsewhere/a.jsonl", _MINE)
        link = sandbox.folder / "out" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(sandbox.folder / target)
        return of_own()(sandbox)

    return run


def _pruned(report):
    def run(sandbox):
        sandbox.write("elsewhere/package.json", _MINE)
        sandbox.write("baselines/box-openai/package.json", '{"test": "a.py::t"}')
        sandbox.write("report.json", json.dumps(report))
        return sandbox.llmperf("baseline", "prune", "--keep-from", "report.json", "--yes")

    return run


def _linked_baselines(sandbox):
    sandbox.write("elsewhere/a.json", _MINE)
    (sandbox.folder / "baselines").mkdir()
    (sandbox.folder / "baselines" / "box-openai").symlink_to(sandbox.folder / "elsewhere")
    sandbox.write("test_x.py", TEST_WITH_BASELINE)
    return on_url("good", words=("--llmperf-update-baselines",))(sandbox)


def _limited(size, *words, baseline=False, loads=None):
    """No file may have more bytes: what a full disk does, for any user."""

    def run(sandbox):
        limit = f"\nimport resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        sandbox.write("conftest.py", (sandbox.folder / "conftest.py").read_text() + limit)
        if baseline:
            sandbox.write("test_x.py", TEST_WITH_BASELINE)
        return on_url("good", words=words, **(loads or {}))(sandbox)

    return run


def _output_is_a_file(sandbox):
    sandbox.write("out", _MINE)
    return on_url("good")(sandbox)


def _held_output(sandbox):
    (sandbox.folder / "out").mkdir()
    held = os.open(sandbox.folder / "out", os.O_RDONLY)
    sandbox.callback(os.close, held)
    fcntl.flock(held, fcntl.LOCK_EX)
    return on_url("good")(sandbox)


_REPORT = {"points": [{"test": "a.py::t[s-a]"}]}
_MANY = {"load": {"requests": 60, "output_tokens": 60}}
FAULTS = (
    Fault(
        "report-is-a-link",
        "report.json in the output folder is a link",
        _with_link("report.json"),
        says=("1 passed",),
        keeps=10,
        exit=0,
        leaves={"victim.txt": _MINE},
    ),
    Fault(
        "log-is-a-link",
        "a server's log in the output folder is a link",
        _with_link("servers/s.log"),
        says=("1 passed",),
        keeps=10,
        exit=0,
        leaves={"victim.txt": _MINE},
    ),
    Fault(
        "requests-is-a-link",
        "the folder of the requests is a link that leads out of the output folder",
        _with_link("requests", "elsewhere"),
        says=("not written: requests/", "leads out of", "it is in"),
        leaves={"elsewhere/a.jsonl": _MINE},
        exit=1,
        passes=True,
    ),
    Fault(
        "prune-elsewhere",
        "the report given to `llmperf baseline prune` names another folder as an environment",
        _pruned({**_REPORT, "environments": {"../elsewhere": {}}}),
        says=("'../elsewhere' is the name of no environment", "--keep-from"),
        has_report=False,
        leaves={"elsewhere/package.json": _MINE},
    ),
    Fault(
        "prune-other-files",
        "a file that is no baseline lies among those that `llmperf baseline prune` judges",
        _pruned({**_REPORT, "environments": {"box-openai": {}}}),
        says=("nothing to prune",),
        has_report=False,
        exit=1,
        leaves={"baselines/box-openai/package.json": '{"test": "a.py::t"}'},
    ),
    Fault(
        "baselines-are-a-link",
        "an environment's folder of baselines is a link that leads out of the folder of baselines",
        _linked_baselines,
        says=("cannot be written", "leads out of"),
        keeps=10,
        leaves={"elsewhere/a.json": _MINE},
    ),
    Fault(
        "html-in-no-folder",
        "the HTML report is to be written where no folder can be made",
        on_url("good", words=("--llmperf-html=plan.yaml/x.html",)),
        says=("--llmperf-html", "plan.yaml is a file, and no folder"),
        exit=4,
        has_report=False,
    ),
    Fault(
        "json-is-a-folder",
        "the report is to be written to a path that is a folder",
        on_url("good", words=("--llmperf-json=.",)),
        says=("--llmperf-json", "it is a folder, where a file is to be written"),
        exit=4,
        has_report=False,
    ),
    Fault(
        "output-is-a-file",
        "the output folder is a file",
        _output_is_a_file,
        says=("--llmperf-output", "it is a file, and no folder"),
        exit=4,
        has_report=False,
        leaves={"out": _MINE},
    ),
    Fault(
        "disk-full-for-requests",
        "the disk is full when requests are written: the report has what was measured",
        _limited(60_000, loads=_MANY),
        says=("1 passed", "not written: requests/", "File too large"),
        passes=True,
        has_report=False,
    ),
    Fault(
        "disk-full-for-reports",
        "the disk is full when the report is written: it says so, and pytest's own summary is whole",
        _limited(3_000),
        says=("1 passed", "not written: report.json", "File too large"),
        has_report=False,
    ),
    Fault(
        "disk-full-for-a-baseline",
        "the disk is full when a baseline is written",
        _limited(3_000, "--llmperf-update-baselines", baseline=True),
        says=("baseline", "cannot be written", "File too large"),
        has_report=False,
    ),
    Fault(
        "same-output",
        "another session is writing to the same output folder",
        _held_output,
        says=("another session is writing there", "--llmperf-output"),
        exit=4,
        has_report=False,
    ),
)


@pytest.mark.parametrize("fault", rows(FAULTS))
def test_fault(fault, sandbox):
    check(fault, sandbox)
