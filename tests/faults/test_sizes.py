"""Plans and files that no memory holds, or no time reads"""

import json
import os

import pytest
from fault import Fault, check, rows
from sandbox import TEST_WITH_BASELINE

_LAUGHS = "".join(f"      a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9) if k else 'lol'}]\n" for k in range(10))
_YAML = """
model: m
servers:
  s:
    engine: openai
    url: http://127.0.0.1:1
    args:
{args}
loads:
  a: {{input_tokens: 10, output_tokens: 8, concurrency: 2, requests: 10{extra}}}
"""


def _load(**keys):
    """A load with a number that is a slip."""

    def run(sandbox):
        sandbox.url_plan("http://127.0.0.1:1", keys)
        return sandbox.pytest()

    return run


def _runs(*words, **keys):
    def run(sandbox):
        sandbox.url_plan("http://127.0.0.1:1", **keys)
        return sandbox.pytest(*words)

    return run


def _plan(text):
    def run(sandbox):
        sandbox.write("plan.yaml", text)
        return sandbox.pytest()

    return run


def _slip(key, what, says, **keys):
    return Fault(key, what, _load(**keys), says=("plan.yaml:1: loads.a", *says), exit=4, has_report=False)


def _refused(key, what, text, *says):
    return Fault(key, what, _plan(text), says=("plan.yaml", *says), exit=4, has_report=False)


def _recorded(sandbox):
    """A session has recorded a baseline; gives its path."""
    server = sandbox.serve()
    sandbox.url_plan(server.url, runs=2)
    sandbox.write("test_x.py", TEST_WITH_BASELINE)
    outcome = sandbox.pytest("--llmperf-update-baselines").end()
    assert outcome.exit == 0, outcome.text
    (path,) = (sandbox.folder / "baselines").rglob("*.json")
    return path


def _baseline(change):
    """The baseline's file is changed before the session that reads it."""

    def run(sandbox):
        change(_recorded(sandbox))
        return sandbox.pytest()

    return run


def _fifo(path):
    path.unlink()
    os.mkfifo(path)


def _device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def _many_sessions(path):
    document = json.loads(path.read_text())
    (session,) = document["sessions"]
    document["sessions"] = [{**session, "id": str(number)} for number in range(2000)]
    document["rolling"] = [held["id"] for held in document["sessions"]]
    document["anchor"] = document["rolling"][-5:]
    path.write_text(json.dumps(document))


def _edited(edit):
    def change(path):
        document = json.loads(path.read_text())
        for session in document["sessions"]:
            for launch in session["launches"]:
                for run in launch:
                    edit(run)
        path.write_text(json.dumps(document))

    return _baseline(change)


def _p50(value):
    return lambda run: run["distributions"]["ttft_ms"].update(p50=value)


def _stale(sandbox):
    """A session that passed has left its report where the next one, which is killed, would have written its own."""
    sandbox.url_plan(sandbox.serve().url)
    outcome = sandbox.pytest().end()
    assert outcome.exit == 0, outcome.text
    test = (sandbox.folder / "test_x.py").read_text()
    sandbox.write("test_x.py", test.replace("    result =", "    import os\n\n    os._exit(3)\n    result ="))
    return sandbox.pytest()


def _stale_by_plan(sandbox):
    """An earlier session's report lies where a session whose plan is wrong would have written its own."""
    sandbox.write("out/report.json", _OLD)
    sandbox.write("report.json", _OLD)
    sandbox.url_plan("http://127.0.0.1:9", {"request": 3})
    return sandbox.pytest("--llmperf-json=report.json")


_OLD = '{"points": [{"passed": true}]}'
FAULTS = (
    _slip("requests", "10^9 requests", ("requests: 1e+09 is more than a run can have: 1,000,000",), requests=10**9),
    _slip("input-tokens", "prompts of 10^9 tokens", ("input_tokens: 1e+09 is more than",), input_tokens=10**9),
    _slip("input-digits", "prompts of 10^300 tokens", ("input_tokens: 1e+300 is more than",), input_tokens=10**300),
    _slip("output-tokens", "answers of 10^9 tokens", ("output_tokens: 1e+09 is more than",), output_tokens=10**9),
    _slip(
        "mean-tokens",
        "prompts of 10^9 tokens on average",
        ("input_tokens: 1e+09 is more than",),
        input_tokens={"mean": 1e9},
    ),
    _slip(
        "concurrency", "10^8 requests at once", ("concurrency: 1e+08 is more than",), concurrency=10**8, requests=10**6
    ),
    _slip(
        "prompts-in-all",
        "10^6 requests of 10^6 tokens",
        ("prompts of 1e+12 tokens in all", "`dataset_entries`"),
        requests=10**6,
        input_tokens=10**6,
    ),
    _slip(
        "rate-and-time",
        "10^6 requests per second for an hour",
        ("3.6e+09 requests in this time are more than a run can have",),
        requests=None,
        concurrency=None,
        request_rate=10**6,
        duration="1 h",
    ),
    _refused(
        "laughs-in-args",
        "aliases in `args` that multiply to 9^9 values",
        _YAML.format(args=_LAUGHS, extra=""),
        "aliases make more than 200,000 values",
    ),
    _refused(
        "laughs-in-body",
        "aliases in `extra_body` that multiply to 9^9 values",
        _YAML.format(args="      x: 1", extra=", extra_body: {" + ", ".join(_LAUGHS.strip().split("\n      ")) + "}"),
        "aliases make more than 200,000 values",
    ),
    _refused(
        "alias-of-itself",
        "an alias of what it stands in",
        _YAML.format(args="      x: &x [*x]", extra=""),
        "an anchor stands within itself",
    ),
    _refused("brackets", "20,000 brackets", "model: " + "[" * 20_000, "nested"),
    _refused(
        "digits", "a number of 5000 digits", _YAML.format(args="      x: " + "9" * 5000, extra=""), "cannot be read"
    ),
    _refused("large-plan", "a plan of 17 MiB", "# " + "x" * (17 << 20) + "\nmodel: m\n", "has more than 16 MiB"),
    Fault("baseline-fifo", "a baseline is a FIFO", _baseline(_fifo), says=("is no regular file",), keeps=20),
    Fault(
        "baseline-device",
        "a baseline is a link to /dev/zero",
        _baseline(_device),
        says=("s-a: ", "baseline"),
        keeps=20,
    ),
    Fault(
        "baseline-order",
        "a median of a baseline was edited to be above its p99",
        _edited(_p50(1e9)),
        says=("is damaged (ttft_ms: p50 (1e+09) is above p75", "restore it from git"),
        keeps=20,
    ),
    Fault(
        "baseline-tiny",
        "a median of a baseline was edited to be next to nothing",
        _edited(_p50(5e-324)),
        says=("is damaged (ttft_ms", "restore it from git"),
        keeps=20,
    ),
    Fault(
        "baseline-count",
        "a baseline's number of values was edited",
        _edited(lambda run: run["distributions"]["icl_ms"].update(n=1e300)),
        says=("is damaged (icl_ms n is 1e+300", "restore it from git"),
        keeps=20,
    ),
    Fault(
        "baseline-of-2000-sessions",
        "a baseline has 2,000 sessions",
        _baseline(_many_sessions),
        says=("has 2,000 `sessions`, more than 200", "restore it from git", "--llmperf-accept"),
        keeps=20,
    ),
    Fault(
        "stale-report-plan-error",
        "an earlier session's report lies where a session with a mistake in its plan would have written its own",
        _stale_by_plan,
        says=("unknown key 'request'", "no report was written; an earlier one is now", "report.json.old"),
        exit=4,
        has_report=False,
        leaves={"report.json.old": _OLD, "out/report.json.old": _OLD},
    ),
    Fault(
        "runs-of-an-option",
        "10^9 runs are asked for by an option",
        _runs("--llmperf-runs=1000000000"),
        says=("--llmperf-runs", "1000000000 runs are more than 10,000"),
        exit=4,
        has_report=False,
    ),
    Fault(
        "runs-of-a-plan",
        "10^9 runs are asked for by the plan",
        _runs(runs=10**9),
        says=("plan.yaml:1: runs: ", "10000"),
        exit=4,
        has_report=False,
    ),
    _refused(
        "plan-in-utf-16", "a plan is saved as UTF-16", "model: m".encode("utf-16"), "is not UTF-8, as which it must"
    ),
    Fault(
        "stale-report",
        "an earlier session's report lies where a session that is cut off would have written its own",
        _stale,
        says=(),
        exit=3,
        has_report=False,
    ),
)


@pytest.mark.parametrize("fault", rows(FAULTS))
def test_fault(fault, sandbox):
    check(fault, sandbox)
