"""`llmperf import --baseline`: other tools' files as the reference of the gate."""

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from samples import result, run, steady_run

from pytest_llmperf.cli.main import main
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines.file import read_baseline, write_baseline
from pytest_llmperf.gate.regression import gated_margins, gated_series
from pytest_llmperf.gate.verdict import judge
from pytest_llmperf.interchange.exports import EXPORTS
from pytest_llmperf.report.files import write_report
from pytest_llmperf.runner.outcomes import RunFolder

DATA = Path(__file__).parents[1] / "data"
TEST = "perf/test_a.py::test_serving[seqs2-short]"
HERE = "baselines/h200x1-embedded/perf/test_a/test_serving-seqs2-short.json"


def measured(slowness=1.0, runs=5):
    """A result of the closed loop of two, each run with its lead-in, and small differences between runs."""
    made = []
    for index in range(runs):
        steady = steady_run(index, slowness * (1 + index / 1000), requests=40)
        records = [dataclasses.replace(r, phase="lead-in" if r.index < 2 else "measured") for r in steady.records]
        made.append(dataclasses.replace(run(records, index), trace_hash="trace-1"))
    return result(made)


@pytest.fixture(scope="module")
def texts():
    """By file name what AIPerf would have written of each run."""
    return [EXPORTS["aiperf"](result([one])) for one in measured().runs]


@pytest.fixture
def project(tmp_path, monkeypatch, texts):
    """A folder in which the test was measured once, and which holds AIPerf's files of five runs."""
    monkeypatch.chdir(tmp_path)
    session = RunFolder(tmp_path / "llmperf-results" / "latest")
    session.note(TEST, "seqs2-short", result=measured(), passed=False, error="no baseline")
    write_report(session)
    for place, written in enumerate(texts):
        folder = tmp_path / f"night{place}"
        folder.mkdir()
        for name, text in written.items():
            (folder / name).write_text(text)
    return tmp_path


def llmperf(*arguments):
    return CliRunner().invoke(main, ["import", *map(str, arguments)])


def files(project, name="profile_export.jsonl"):
    return sorted(project.glob(f"night*/{name}"))


def verdict_of(now):
    stored = read_baseline(Path(HERE))
    series, notes = gated_series(stored, now, gated_margins(now.load, {}))
    return judge({"p": series})["p"], notes


def test_files_become_a_baseline_that_is_compared_with(project):
    done = llmperf(*files(project), "--baseline", TEST)
    assert done.exit_code == 0, done.output
    assert f"baseline: {HERE}" in done.output
    stored = read_baseline(Path(HERE))
    assert [len(session.runs) for session in stored.rolling] == [5]
    assert stored.imported.files == tuple(f"night{n}/profile_export.jsonl" for n in range(5))
    own = measured().summaries[0].value(next(q for q in stored.margins if str(q) == "itl_p50"))
    assert stored.runs[0][next(q for q in stored.margins if str(q) == "itl_p50")] == pytest.approx(own, rel=1e-5)
    same, notes = verdict_of(measured())
    found = {str(metric.series.quantity): metric.verdict for metric in same.metrics}
    assert found["ttft_p50"] == "PASS"
    assert found["itl_p50"] == "INCONCLUSIVE", "one session of another client's may differ by its whole margin"
    assert "FAIL" not in found.values()
    assert "imported from AIPerf pytest-llmperf" in notes[0]
    assert "--llmperf-accept" in notes[0]
    assert verdict_of(measured(1.5))[0].verdict == "FAIL"


def test_the_file_is_written_and_read_alike(project):
    assert llmperf(*files(project), "--baseline", "seqs2-short").exit_code == 0
    before = Path(HERE).read_text()
    write_baseline(read_baseline(Path(HERE)))
    assert Path(HERE).read_text() == before
    shown = CliRunner().invoke(main, ["baseline", "show", "seqs2-short"])
    assert "imported     from AIPerf" in shown.output, shown.output


def test_the_path_of_the_baseline_names_the_test_too(project):
    assert llmperf(*files(project), "--baseline", HERE).exit_code == 0


def test_a_single_file_is_too_few(project):
    done = llmperf(files(project)[0], "--baseline", TEST)
    assert done.exit_code == 0, done.output
    assert "1 file is 1 run: the gate compares with 5 at least" in done.output
    found, _ = verdict_of(measured())
    assert found.verdict == "NO BASELINE"


def test_what_the_files_do_not_tell_is_not_gated(project):
    """Summaries have no throughput by our window; the others are compared all the same."""
    done = llmperf(*files(project, "profile_export_aiperf.json"), "--baseline", TEST)
    assert done.exit_code == 0, done.output
    found, _ = verdict_of(measured())
    told = {str(metric.series.quantity): metric for metric in found.metrics}
    assert told["output_token_throughput"].verdict == "NOT GATED"
    assert "not in the imported baseline: the file has no single requests" in told["output_token_throughput"].reason
    assert told["ttft_p50"].verdict == "PASS"


def test_nothing_that_is_gated_is_an_error_and_no_silent_pass(project):
    assert llmperf(*files(project, "profile_export_aiperf.json"), "--baseline", TEST).exit_code == 0
    now = measured()
    only = {q: m for q, m in gated_margins(now.load, {}).items() if str(q) == "output_token_throughput"}
    with pytest.raises(BaselineError, match=r"has nothing of what is gated \(output_token_throughput\)"):
        gated_series(read_baseline(Path(HERE)), now, only)


def test_files_that_tell_nothing_of_what_is_gated_are_refused(project):
    document = json.loads((DATA / "vllm_bench_serve_0.32.json").read_text()) | {"model_id": "m"}
    Path("v.json").write_text(json.dumps(document))
    done = llmperf("v.json", "--baseline", TEST)
    assert done.exit_code == 1
    assert "the files tell nothing of what is gated" in done.output
    assert "--save-detailed" in done.output
    assert not Path(HERE).exists()


def test_another_machine_is_not_compared(project):
    assert llmperf(*files(project), "--baseline", TEST).exit_code == 0
    with pytest.raises(BaselineError, match="environment was 'h200x1-embedded', is 'elsewhere'"):
        verdict_of(result(measured().runs, slug="elsewhere"))


def test_another_load_or_model_is_refused(project):
    document = json.loads((DATA / "vllm_bench_serve_0.32_detailed.json").read_text()) | {"max_concurrency": 3}
    Path("v.json").write_text(json.dumps(document))
    done = llmperf("v.json", "--baseline", TEST)
    assert done.exit_code == 1
    for part in ("concurrency is 3 in the file, 2 of the test", "the model is 'embedded' in the file, 'm' of the test"):
        assert part in done.output
    assert "answers have 8 to 8 tokens in the file, 4 of the test" in done.output


def test_a_ramp_is_no_run_of_any_test(project):
    ramp = {"request_rate": "inf", "max_concurrency": None, "ramp_up_strategy": "linear"}
    document = json.loads((DATA / "vllm_bench_serve_0.32_detailed.json").read_text()) | ramp
    Path("v.json").write_text(json.dumps(document))
    done = llmperf("v.json", "--baseline", TEST)
    assert done.exit_code == 1
    assert "the load is no fixed concurrency or rate in the file: linear ramp" in done.output


def test_what_is_asked_for(project):
    done = llmperf(files(project)[0], "--baseline", TEST, "--report", "nowhere.json")
    assert done.exit_code == 2
    assert "Run the test once" in done.output
    done = llmperf(files(project)[0], "--baseline", "test_b")
    assert done.exit_code == 1
    assert f"holds 0 measured tests 'test_b'; it holds:\n  {TEST}" in done.output
    Path("r.json").write_bytes(b"\xff")
    done = llmperf(files(project)[0], "--baseline", TEST, "--report", "r.json")
    assert done.exit_code == 2
    assert "r.json cannot be read (no UTF-8 text)" in done.output
    Path("r.json").write_text("{}")
    assert (
        "is no report of pytest-llmperf" in llmperf(files(project)[0], "--baseline", TEST, "--report", "r.json").output
    )


def test_a_baseline_that_is_there_is_kept(project):
    assert llmperf(*files(project), "--baseline", TEST).exit_code == 0
    done = llmperf(files(project)[0], "--baseline", TEST)
    assert done.exit_code == 2
    assert "--replace writes over it" in done.output
    assert llmperf(files(project)[0], "--baseline", TEST, "--replace").exit_code == 0


def test_a_file_of_several_runs_is_no_run(project):
    text = EXPORTS["vllm"](measured(runs=2))["vllm.json"]
    Path("v.json").write_text(text)
    done = llmperf("v.json", "--baseline", TEST)
    assert done.exit_code == 1
    assert "holds 2 × c2; a baseline takes files of one run each" in done.output
