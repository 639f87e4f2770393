"""Faults that commands meet"""

import os

import pytest
from fault import Fault, check, rows

_NOWHERE = "--url=http://127.0.0.1:1"
_OF_FILE = ["--model=m", "--concurrency=2", "--requests=10", "--output=out"]
_LOAD = ["--model=m", "--concurrency=2", "--requests=10", "--input-tokens=10", "--output-tokens=8", "--output=out"]


def _profile(answer="good", *words, **options):
    def run(sandbox):
        return sandbox.llmperf("profile", f"--url={sandbox.serve(answer, **options).url}", *_LOAD, *words)

    return run


def _given(*words, files=()):
    """A command, and FIFOs or files that it is given."""

    def run(sandbox):
        for name, text in files:
            if text is None:
                os.mkfifo(sandbox.folder / name)
            else:
                sandbox.write(name, text)
        return sandbox.llmperf(*words)

    return run


def _of_fifo(sandbox):
    os.mkfifo(sandbox.folder / "prompts.jsonl")
    return sandbox.llmperf("profile", f"--url={sandbox.serve().url}", *_OF_FILE, "--input-data=prompts.jsonl")


def _command(key, what, run, *says, exit=1):
    return Fault(key, what, run, says=says, exit=exit, has_report=False)


_RESET = "requests were sent again"
FAULTS = (
    _command(
        "profile-refused",
        "`llmperf profile`: nothing listens",
        _given("profile", _NOWHERE, "--ready=false", *_LOAD),
        "the connection was refused for 3 s",
    ),
    _command(
        "profile-dies",
        "`llmperf profile`: HTTP 500 to the first request",
        _profile("error_500", where="first"),
        "its first request failed: HTTP 500: boom",
    ),
    _command(
        "profile-resets",
        "`llmperf profile`: every second request is reset before its answer",
        _profile("reset_before", after=3, every=2),
        _RESET,
    ),
    _command(
        "profile-absurd",
        "`llmperf profile`: 10^9 requests",
        _given("profile", _NOWHERE, *_LOAD, "--requests=1000000000"),
        "requests: 1e+09 is more than a run can have",
        exit=2,
    ),
    _command(
        "profile-prompts-fifo",
        "`llmperf profile`: the prompts are a FIFO that nobody writes to",
        _of_fifo,
        "prompts.jsonl: cannot read the prompts",
        "no regular file",
    ),
    _command(
        "import-fifo",
        "`llmperf import`: the file is a FIFO",
        _given("import", "run.json", files=[("run.json", None)]),
        "run.json cannot be read: is no regular file",
    ),
    _command(
        "history-import-fifo",
        "`llmperf history import`: the file is a FIFO",
        _given("history", "import", "a.json", files=[("a.json", None)]),
        "is no regular file: 'a.json'",
    ),
    _command(
        "baseline-list-fifo",
        "`llmperf baseline list`: a baseline is a FIFO",
        _given("baseline", "list", ".", files=[("a.json", None)]),
        "no baselines in .",
        exit=0,
    ),
)


@pytest.mark.parametrize("fault", rows(FAULTS))
def test_fault(fault, sandbox):
    check(fault, sandbox)
