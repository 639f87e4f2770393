"""The public API, used as a script does: real servers, no fixture of the plugin."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import unittest
from copy import deepcopy
from pathlib import Path

import pytest

import pytest_llmperf
from pytest_llmperf import (
    BaselineError,
    InvalidResultError,
    LlmPerfError,
    MissingRequirement,
    PlanError,
    ServerError,
    check_sla,
    compare,
    duet,
    duet_async,
    judge_files,
    load_plan,
    measure,
    measure_async,
    record,
    start_server,
)

DOCS = Path(__file__).parents[2] / "docs" / "api.md"
DATA = Path(__file__).parents[1] / "unit" / "data"
FAST = {"engine": "embedded", "model": "embedded", "args": {"step": "modelled", "decode-ms-per-step": 1}}
LOAD = {"input_tokens": 8, "output_tokens": 4, "concurrency": 2, "requests": 20, "warmup_requests": 1}


@pytest.fixture(autouse=True)
def folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with start_server(FAST, logs=tmp_path_factory.mktemp("logs")) as running:
        yield running


@pytest.fixture(scope="module")
def five_runs(server):
    return measure(server, LOAD, runs=5)


def one_plan():
    Path("plan.yaml").write_text(json.dumps({"model": "m", "servers": {"s": FAST}, "loads": {"l": LOAD}}))
    return load_plan("plan.yaml")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def vllm_details():
    """A result of `vllm bench serve` without the statistics, which would have to agree with changed details."""
    told = json.loads((DATA / "vllm_bench_serve_0.32_detailed.json").read_text())
    return {key: value for key, value in told.items() if not key.endswith(("_ttft_ms", "_itl_ms", "_e2el_ms"))}


def vllm_files(folder, count, slowness=1.0, **changes):
    """Files of `vllm bench serve` with details, each a little different from the others."""
    told = vllm_details()
    folder.mkdir()
    paths = []
    for number in range(count):
        made, factor = deepcopy(told) | changes, slowness * (1 + number / 1000)
        made["ttfts"] = [one * factor for one in made["ttfts"]]
        made["itls"] = [[one * factor for one in answer] for answer in made["itls"]]
        paths.append(folder / f"run{number}.json")
        paths[-1].write_text(json.dumps(made))
    return paths


def test_the_snippets_of_the_docs_run(tmp_path, capsys):
    Path("plan.yaml").write_text(blocks("yaml")[0])
    vllm_files(tmp_path / "old", 3)
    vllm_files(tmp_path / "new", 5)
    namespace = {"__name__": "snippets"}
    for block in blocks("python"):
        exec(compile(block, str(DOCS), "exec"), namespace)
    assert "PASS error_rate: 0" in capsys.readouterr().out
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(namespace["Serving"])
    assert unittest.TextTestRunner().run(suite).wasSuccessful()


def test_every_public_name_is_there_and_documented():
    for name in pytest_llmperf.__all__:
        found = getattr(pytest_llmperf, name)
        assert name.startswith("__") or found.__doc__, name
    assert set(pytest_llmperf.__all__) <= set(dir(pytest_llmperf))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pytest_llmperf.nothing


def test_importing_the_package_loads_nothing_of_it():
    code = "import sys, pytest_llmperf; print([name for name in sys.modules if name.startswith('pytest_llmperf.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_running_server_is_measured(server, five_runs):
    assert [len(run.records) >= 20 for run in five_runs.runs] == [True] * 5
    assert five_runs.point_id == "server-load"
    assert server.logs
    assert all(log.exists() for log in server.logs)


def test_a_url_is_measured(server, tmp_path):
    result = measure(server.url, LOAD, model="embedded", runs=1, output=tmp_path / "out")
    assert result.metrics.ok == 20
    assert list((tmp_path / "out" / "requests").iterdir())


def test_the_runs_of_a_plan_hold(server):
    Path("plan.yaml").write_text(json.dumps({"model": "m", "runs": 2, "servers": {"s": FAST}, "loads": {"l": LOAD}}))
    assert len(measure(server, load_plan("plan.yaml").load("l")).runs) == 2


@pytest.mark.parametrize(
    ("server_of", "load", "options", "problem"),
    [
        ("url", LOAD, {}, "url: model is missing"),
        ("running", LOAD, {"model": "m"}, "goes with a URL"),
        ("running", {**LOAD, "concurency": 3}, {}, "unknown key 'concurency'; did you mean"),
        ("running", {**LOAD, "concurrency": {"sweep": [1, 2]}}, {}, "a load of 2 points"),
        ("running", LOAD, {"runs": 0}, "runs=0"),
    ],
)
def test_what_cannot_be_measured_is_a_plan_error(server, server_of, load, options, problem):
    with pytest.raises(PlanError, match=re.escape(problem)):
        measure(server.url if server_of == "url" else server, load, **options)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (lambda: start_server(FAST), "measure needs a running server, and this one is not started: write `with start"),
        (lambda: one_plan().server("s"), "write `with start_server(the configuration) as server`"),
        (lambda: FAST, "write `with start_server(the configuration) as server`"),
        (lambda: None, "measure needs a running server or the URL of one, not None"),
        (lambda: 8000, "not 8000 (int)"),
    ],
)
def test_what_is_no_running_server_is_told(given, problem):
    with pytest.raises(PlanError, match=re.escape(problem)):
        measure(given(), LOAD)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: start_server("new"), "server is 'new' (str); allowed are plan.server(...) and a mapping"),
        (lambda: start_server(None), "server is None; allowed are"),
        (lambda: duet("new", "old", LOAD), "a is 'new' (str); allowed are"),
        (lambda: duet(FAST, start_server(FAST), LOAD), "b is <"),
        (lambda: duet(FAST, FAST, LOAD, output="file"), "output='file': a folder is needed"),
        (lambda: duet(FAST, FAST, LOAD, logs="file/logs"), "file is a file"),
        (lambda: start_server(FAST, logs="file"), "logs='file': a folder is needed"),
    ],
)
def test_a_server_and_folders_are_checked_before_a_start(call, problem):
    Path("file").touch()
    with pytest.raises(PlanError, match=re.escape(problem)):
        call()
    assert [path.name for path in Path().iterdir()] == ["file"]


@pytest.mark.parametrize("runs", ["3", 1.5, True])
def test_runs_are_a_whole_number(runs):
    nobody = "http://127.0.0.1:9"
    with pytest.raises(PlanError, match=re.escape(f"runs={runs!r}: a whole number of at least 1 is needed")):
        measure(nobody, LOAD, model="m", runs=runs)
    with pytest.raises(PlanError, match=re.escape(f"runs={runs!r}: a whole number of at least 3 is needed")):
        duet(FAST, FAST, LOAD, runs=runs)


@pytest.mark.parametrize("output", ["file", Path("file"), "file/below", 3])
def test_an_output_that_is_no_folder_is_told_before_measuring(output):
    Path("file").touch()
    with pytest.raises(PlanError, match=r"output=.* folder is needed"):
        measure("http://127.0.0.1:9", LOAD, model="m", output=output)


@pytest.mark.parametrize("name", ["", " ", None, 3])
def test_a_baseline_has_a_name(five_runs, name):
    for call in (record, compare):
        with pytest.raises(PlanError, match="the name of a baseline is a text that is not empty"):
            call(five_runs, baselines="baselines", name=name)
    assert not Path("baselines").exists()


@pytest.mark.parametrize(
    ("name", "problem"), [("ttft_p9", "unknown metric 'ttft_p9'; did you mean"), (None, "None is no metric's name")]
)
def test_a_metric_that_is_none_is_told(five_runs, name, problem):
    with pytest.raises(PlanError, match=re.escape(problem)) as caught:
        five_runs.value(name)
    assert isinstance(caught.value, ValueError)


def test_a_tokenizer_that_is_not_there_is_a_missing_requirement(server):
    with pytest.raises(MissingRequirement, match="needs the tokenizer"):
        measure(server, {**LOAD, "tokenizer": "/nowhere/tokenizer"})


def test_plans_say_which_names_they_have():
    plan = {"model": "m", "servers": {"tp1": FAST}, "loads": {"short": {**LOAD, "concurrency": {"sweep": [1, 2]}}}}
    Path("plan.yaml").write_text(json.dumps(plan))
    held = load_plan("plan.yaml")
    assert held.load("short-c2").concurrency == 2
    with pytest.raises(PlanError, match="no load 'short-c3'"):
        held.load("short-c3")
    with pytest.raises(PlanError, match="no server 'tp2'; did you mean 'tp1'"):
        held.server("tp2")


def test_a_server_that_dies_at_once_tells_where_its_log_is(tmp_path):
    broken = {"engine": "command", "model": "m", "command": [sys.executable, "-c", "raise SystemExit(3)", "{port}"]}
    with pytest.raises(ServerError, match=re.escape(str(tmp_path / "logs"))), start_server(broken, logs="logs"):
        pass


def test_an_event_loop_is_not_stopped(server):
    async def sync_inside():
        with pytest.raises(RuntimeError, match="await measure_async"):
            measure(server, LOAD)
        with pytest.raises(RuntimeError, match="await duet_async"):
            duet(FAST, FAST, LOAD)
        return await measure_async(server.url, LOAD, model="embedded", runs=1)

    assert asyncio.run(sync_inside()).metrics.ok == 20


def test_a_start_that_is_cancelled_leaves_no_server(tmp_path):
    async def cancelled():
        async def begin():
            async with start_server(FAST, logs=tmp_path):
                pytest.fail("it was cancelled before")

        task = asyncio.ensure_future(begin())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    port = re.search(r"http://127.0.0.1:(\d+)", (tmp_path / "server.log").read_text())
    assert port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port[1])))


def test_limits_are_checked_without_pytest(server):
    result = measure(server, {**LOAD, "sla": {"ttft_p50": "<= 1 us", "error_rate": "<= 0"}}, runs=1)
    assert {str(check.limit.quantity): check.ok for check in check_sla(result)} == {
        "ttft_p50": False,
        "error_rate": True,
    }


def test_a_baseline_is_recorded_and_compared_with(five_runs, server):
    with pytest.raises(BaselineError):
        compare(five_runs, baselines="baselines", name="nightly")
    path = record(five_runs, baselines="baselines", name="nightly")
    assert path.exists()
    same = compare(five_runs, baselines="baselines", name="nightly", margins={"itl_p50": "50 %"})
    assert same.verdict not in ("FAIL", "NO BASELINE")
    assert len(same.sentences) == len(same.metrics)
    assert {str(metric.series.quantity): metric.series.margin for metric in same.metrics}["itl_p50"] == 0.5
    other = measure(server, {**LOAD, "output_tokens": 5}, runs=1)
    with pytest.raises(BaselineError, match="not comparable"):
        compare(other, baselines="baselines", name="nightly")


def test_few_runs_make_no_baseline(server):
    with pytest.raises(BaselineError, match="has 1 run; a baseline takes 5"):
        record(measure(server, LOAD, runs=1), baselines="baselines", name="nightly")


def test_margins_are_checked(five_runs):
    with pytest.raises(PlanError, match="margins"):
        compare(five_runs, baselines="baselines", name="nightly", margins={"itl_p51": "5 %"})


def test_a_gate_profile_is_checked_before_anything_is_measured(five_runs, tmp_path):
    for judging in (
        lambda: compare(five_runs, baselines="baselines", name="nightly", gate="lax"),
        lambda: duet({**FAST, "url": "no url"}, FAST, LOAD, gate="lax"),
        lambda: judge_files(vllm_files(tmp_path / "old", 1), vllm_files(tmp_path / "new", 1), gate="lax"),
    ):
        with pytest.raises(PlanError, match="gate='lax': allowed are default, strict, report-only"):
            judging()


def test_a_load_of_a_mapping_holds_any_character(server):
    text = "😀 \x85\u2028 é\n"
    result = measure(server, {**LOAD, "extra_body": {"note": text}}, runs=1)
    assert result.load.extra_body == {"note": text}


def test_what_failed_is_not_judged(server):
    refused = measure(server, {**LOAD, "input_tokens": 100_000, "requests": 2, "warmup_requests": 0}, runs=1)
    with pytest.raises(InvalidResultError) as caught:
        compare(refused, baselines="baselines", name="nightly")
    assert caught.value.result is refused


def test_a_duet_judges_the_new_server():
    slow = {**FAST, "args": {"step": "modelled", "decode-ms-per-step": 30}}
    found = asyncio.run(duet_async(FAST, slow, LOAD, margins={"itl_p50": "5 %"}))
    assert found.regression.verdict == "FAIL"
    assert found.regression.duet == ("a", "b")
    assert found.result.reference.server.name == "a"


def test_servers_that_answer_differently_make_no_duet():
    with pytest.raises(PlanError, match="differ in arguments"):
        duet(FAST, {**FAST, "args": {**FAST["args"], "dtype": "bfloat16"}}, LOAD)


def test_files_of_a_slower_build_fail(tmp_path):
    old, new = vllm_files(tmp_path / "old", 5), vllm_files(tmp_path / "new", 5, slowness=2.0)
    assert judge_files(old, new).verdict == "FAIL"
    assert judge_files(new, old).verdict == "IMPROVED"


def test_files_of_the_same_build_do_not_fail(tmp_path):
    found = judge_files(vllm_files(tmp_path / "old", 5), vllm_files(tmp_path / "new", 5))
    assert found.verdict in ("PASS", "INCONCLUSIVE")
    assert any("imported from vllm bench serve" in note for note in found.notes)


def test_files_of_statistics_are_a_run_each(tmp_path):
    told = json.loads((DATA / "vllm_bench_serve_0.32.json").read_text())
    sides = {"old": 1.0, "new": 0.5}
    for side, speed in sides.items():
        (tmp_path / side).mkdir()
        for number in range(5):
            factor = speed * (1 - number / 1000)
            made = told | {"output_throughput": told["output_throughput"] * factor}
            (tmp_path / side / f"{number}.json").write_text(json.dumps(made))
    old, new = (sorted((tmp_path / side).iterdir()) for side in sides)
    found = judge_files(old, new)
    throughput = next(m for m in found.metrics if m.series.quantity.metric == "output_token_throughput")
    assert [len(side[0]) for side in (throughput.series.baseline, throughput.series.candidate)] == [5, 5]


def test_a_build_that_refuses_requests_is_not_called_fast(tmp_path):
    told = vllm_details()
    refused = {"errors": [*told["errors"][:-1], "HTTP 500"], "completed": told["completed"] - 1}
    for name in ("ttfts", "itls", "output_lens"):
        refused[name] = [*told[name][:-1], [] if name == "itls" else 0]
    refused["total_output_tokens"] = sum(refused["output_lens"])
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "run0.json").write_text(json.dumps(told | refused | {"failed": 1}))
    with pytest.raises(LlmPerfError, match="more requests failed"):
        judge_files(vllm_files(tmp_path / "old", 3), [folder / "run0.json"])


@pytest.mark.parametrize(
    "spoil", ["other load", "other slots", "no slots", "other model", "twice", "none", "other tool", "no result"]
)
def test_files_that_do_not_compare_are_refused(tmp_path, spoil):
    old, new = vllm_files(tmp_path / "old", 3), vllm_files(tmp_path / "new", 3)
    told = json.loads(new[1].read_text())
    if "slots" in spoil:
        for path in (*old, *new):
            path.write_text(json.dumps(told | {"request_rate": 50.0, "max_concurrency": 64}))
    match spoil:
        case "other slots" | "no slots":
            slots = 256 if spoil == "other slots" else None
            new[1].write_text(json.dumps(told | {"request_rate": 50.0, "max_concurrency": slots}))
        case "other load":
            new[1].write_text(json.dumps(told | {"max_concurrency": 99}))
        case "other model":
            new[1].write_text(json.dumps(told | {"model_id": "another"}))
        case "twice":
            new[1] = new[0]
        case "none":
            new = []
        case "other tool":
            new[1] = DATA / "aiperf_0.13.0_profile_export_aiperf.json"
        case "no result":
            new[1].write_text("{}")
    named = "new build" if spoil == "none" else new[1].name
    with pytest.raises(LlmPerfError, match=re.escape(named)):
        judge_files(old, new)
