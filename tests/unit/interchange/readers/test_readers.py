"""Other tools' files as runs of ours: real files of real tools, our own exports read again, and what is damaged."""

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from samples import failed, result, run, steady_run

from pytest_llmperf.cli.main import main
from pytest_llmperf.interchange.exports import EXPORTS
from pytest_llmperf.interchange.perf_analyzer import profile_export
from pytest_llmperf.interchange.readers.detect import parse_import
from pytest_llmperf.interchange.readers.rows import requests_rows
from pytest_llmperf.interchange.readers.shared.fields import ImportFileError
from pytest_llmperf.interchange.results import imported_environment, imported_results
from pytest_llmperf.metrics.frame import request_rows

DATA = Path(__file__).parents[2] / "data"
AIPERF, AIPERF_LINES = "aiperf_0.13.0_profile_export_aiperf.json", "aiperf_0.13.0_profile_export.jsonl"
PERF_ANALYZER = "genai_perf_0.0.16_profile_export.json"
GENAI_PERF = "genai_perf_0.0.16_profile_export_genai_perf"
ANALYZE = "genai_perf_0.0.16_analyze_export_genai_perf.csv"
VLLM, GUIDELLM = "vllm_bench_serve_0.32_detailed.json", "guidellm_0.8.1.json"


def text_of(name):
    return (DATA / name).read_text(encoding="utf-8")


def imported(name, beside=None):
    found = parse_import(text_of(name), name, beside=beside and text_of(beside))
    return found, imported_results(found, "a", imported_environment("there"))


# Real files


def test_every_real_file_is_read():
    files = [path for path in DATA.iterdir() if path.suffix in (".json", ".jsonl", ".csv")]
    assert len(files) == 12
    for path in files:
        assert parse_import(path.read_text(encoding="utf-8"), path.name).points, path.name


def test_a_summary_of_aiperf():
    found, (one,) = imported(AIPERF)
    assert (found.source, found.model, one.load.concurrency) == ("AIPerf 0.13.0", "embedded", 2)
    document = json.loads(text_of(AIPERF))
    assert one.metrics.distributions["ttft"].stat("p99") == document["time_to_first_token"]["p99"]
    assert one.metrics.distributions["output_tokens"].mean == 8.0, "the server's count, not the 22 of the tokenizer"
    assert one.metrics.distributions["itl"].n == 0
    assert one.metrics.scalars["output_token_throughput"] is None
    assert one.metrics.scalars["error_rate"] == 0.0
    assert any("left out itl, tpot: AIPerf counted tokens with its own tokenizer" in line for line in one.remarks)


def test_requests_of_aiperf_have_the_itl_by_the_servers_tokens():
    _, (one,) = imported(AIPERF_LINES, beside=AIPERF)
    assert (one.metrics.sent, one.metrics.ok) == (4, 4), "two of six are the lead-in"
    first = next(record for record in one.runs[0].records if record.phase == "measured")
    assert (first.output_tokens, first.token_source, len(first.chunk_ns)) == (8, "usage", 8)
    itl = one.metrics.distributions["itl"]
    times = [r.chunk_ns for r in one.runs[0].records if r.phase == "measured"]
    gaps = [(seen[-1] - seen[0]) / (8 - seen.count(seen[0])) / 1e6 for seen in times]
    assert itl.mean == pytest.approx(sum(gaps) / 4)
    assert one.metrics.scalars["output_token_throughput"] > 0


def test_an_open_loop_of_aiperf_with_failures():
    _, (one,) = imported("aiperf_0.13.0_rate_failures.jsonl", beside="aiperf_0.13.0_rate_failures.json")
    assert (one.load.request_rate, one.load.concurrency) == (50.0, None)
    assert (one.metrics.sent, one.metrics.ok, one.metrics.failed) == (6, 4, 2)
    assert one.metrics.distributions["ttft"].n == 0, "counts from when it was due, which the file does not tell"
    assert one.metrics.distributions["service_ttft"].n == 4
    assert "overloaded" in next(record.error for record in one.runs[0].records if record.error)


def test_requests_of_perf_analyzer_are_read_as_ours_are():
    found, (one,) = imported(PERF_ANALYZER)
    assert (found.tool, found.model, one.load.concurrency) == ("perf_analyzer", "embedded", 2)
    records = one.runs[0].records
    assert {len(record.chunk_ns) for record in records} == {8}
    assert {len(record.tokenless_ns) for record in records} == {1}, "the chunk with the role"
    assert one.metrics.token_sources == ("chunks",)


def test_a_tokenizer_counts_the_answers_of_perf_analyzer():
    found = parse_import(text_of(PERF_ANALYZER), "x", count=lambda text: len(text.split()) + 1)
    (one,) = imported_results(found, "a", imported_environment("there"))
    assert one.runs[0].records[0].output_tokens == 9
    assert one.metrics.token_sources == ("tokenizer",)


def test_both_files_of_one_run_of_genai_perf_agree():
    """Its request latency and its first token, from perf_analyzer's times of the same run."""
    (whole,) = parse_import(text_of(f"{GENAI_PERF}.json"), "x").points
    (requests,) = parse_import(text_of(PERF_ANALYZER), "x").points
    waits = [(record.chunk_ns[0] - record.sent_ns) / 1e6 for record in requests.runs[0]]
    assert whole.known["ttfo"].mean == pytest.approx(sum(waits) / 6)
    assert whole.concurrency == 2
    assert "ttft" in whole.unknown


def test_a_csv_of_genai_perf_has_the_figures_of_its_json():
    (rounded,) = parse_import(text_of(f"{GENAI_PERF}.csv"), "x").points
    (whole,) = parse_import(text_of(f"{GENAI_PERF}.json"), "x").points
    assert rounded.metrics.keys() == whole.metrics.keys()
    for name, values in rounded.metrics.items():
        for stat in values.keys() - {"unit"}:
            assert values[stat] == pytest.approx(whole.metrics[name][stat], abs=0.005), (name, stat)


def test_a_sweep_of_genai_perf():
    found, results = imported(ANALYZE)
    assert found.model == "embedded"
    assert [one.load.concurrency for one in results] == [4, 2, 1]
    assert results[0].metrics.distributions["e2e"].stat("p99") == 38.80
    assert results[0].metrics.distributions["e2e"].mean is None


def test_the_role_chunk_of_vllm_is_taken_off():
    _, (one,) = imported(VLLM)
    document = json.loads(text_of(VLLM))
    first = one.runs[0].records[0]
    assert (first.chunk_ns[0] - first.sent_ns) / 1e9 == pytest.approx(document["ttfts"][0] + document["itls"][0][0])
    assert (len(first.chunk_ns), first.output_tokens, len(first.tokenless_ns)) == (8, 8, 1)
    assert one.metrics.distributions["input_tokens"].n == 0


def test_chunks_of_several_tokens_leave_the_first_token_of_vllm_unknown():
    document = json.loads(text_of(VLLM))
    document["output_lens"], document["total_output_tokens"] = [12] * 6, 72
    (one,) = imported_results(parse_import(json.dumps(document), "x"), "a", imported_environment("there"))
    assert one.metrics.distributions["ttft"].n == 0
    assert one.metrics.distributions["itl"].n == 0
    assert one.metrics.distributions["e2e"].n == 4


def test_a_rate_of_vllm_with_failures():
    _, (one,) = imported("vllm_bench_serve_0.32_rate_failures.json")
    assert (one.load.request_rate, one.metrics.ok, one.metrics.failed) == (50.0, 4, 2)


def test_a_summary_of_vllm_tells_little():
    _, (one,) = imported("vllm_bench_serve_0.32.json")
    assert one.metrics.distributions["ttft"].n == 0
    assert any("--save-detailed" in line for line in one.remarks)


def test_requests_of_guidellm():
    found, (one,) = imported(GUIDELLM)
    assert (found.source, found.model, one.load.concurrency) == ("GuideLLM 0.8.1", "embedded", 2)
    own = json.loads(text_of(GUIDELLM))["benchmarks"][0]["requests"]["successful"]
    (whole,) = found.points
    for record, theirs in zip(whole.runs[0], sorted(own, key=lambda r: r["request_start_time"]), strict=True):
        assert (record.chunk_ns[0] - record.sent_ns) / 1e6 == pytest.approx(theirs["time_to_first_token_ms"], abs=1e-3)
        itl = (record.chunk_ns[-1] - record.chunk_ns[0]) / 1e6 / (record.output_tokens - 1)
        assert itl == pytest.approx(theirs["inter_token_latency_ms"], abs=1e-3)
    assert one.metrics.scalars["output_token_throughput"] is None
    assert one.metrics.scalars["request_throughput"] is not None


# Our exports have the keys and types of the real files

RESULT = result([steady_run(0), run([*steady_run(1).records, failed(status=500)], 1)])
NOT_OURS = {
    "aiperf": {
        *("benchmark_id", "osl_mismatch_count", "osl_mismatch_diff_pct", "usage_discrepancy_count"),
        *("usage_completion_tokens_diff_pct", "usage_prompt_tokens_diff_pct"),  # we count once, with one source
        *(
            "usage_total_tokens",
            "total_usage_prompt_tokens",
            "total_usage_completion_tokens",
            "total_usage_total_tokens",
        ),
        *("output_token_count", "total_output_tokens"),  # without reasoning, of which we have no count
        *("credit_to_start_latency", "effective_latency", "tokens_in_flight"),  # of AIPerf's own scheduler
    },
    "aiperf line": {
        *("x_correlation_id", "credit_issued_ns", "phase_index", "profiling_index", "phase_name", "phase_kind"),
        *("context_overflow_skip", "agent_depth", "root_correlation_id"),
    },
    "vllm": {"max_output_tokens_per_s", "max_concurrent_requests", "request_goodput", "rtfx", "queue_times"}
    | {"generated_texts"},
}
OF_AIPERF_ALONE = ("http_req_", "effective_", "active_")
"""HTTP phases, and averages weighted with time, that are not measured here."""


def shape(value):
    """Keys and JSON types; int and float are one, as in JSON."""
    if isinstance(value, dict):
        return {key: shape(held) for key, held in value.items()}
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def assert_covers(ours, real, without=frozenset(), skip=("input_config", "run_info")):
    """Every key of the real file is in ours with the same type, but for those listed."""
    missing = {key for key in real if key not in ours and not key.startswith(OF_AIPERF_ALONE)}
    assert missing <= without, missing - without
    for key in real.keys() & ours.keys() - set(skip):
        assert shape(ours[key]) == shape(real[key]), key


def test_aiperf_summary_has_the_real_keys():
    ours = json.loads(EXPORTS["aiperf"](RESULT)["profile_export_aiperf.json"])
    real = json.loads(text_of(AIPERF))
    assert_covers(ours, real, NOT_OURS["aiperf"])
    units = {name: held["unit"] for name, held in real.items() if isinstance(held, dict) and "unit" in held}
    assert {name: held["unit"] for name, held in ours.items() if name in units} == {
        name: unit for name, unit in units.items() if name in ours
    }
    assert ours["input_config"]["phases"][0].keys() == real["input_config"]["phases"][0].keys()
    assert ours["input_config"]["models"] == {"items": [{"name": "m"}]}


def test_aiperf_lines_have_the_real_keys():
    ours = json.loads(EXPORTS["aiperf"](RESULT)["profile_export.jsonl"].splitlines()[0])
    real = json.loads(text_of(AIPERF_LINES).splitlines()[0])
    assert ours.keys() == real.keys()
    assert real["metadata"].keys() - ours["metadata"].keys() == NOT_OURS["aiperf line"]
    theirs = {name for name in real["metrics"] if not name.startswith(OF_AIPERF_ALONE)}
    assert theirs - ours["metrics"].keys() <= NOT_OURS["aiperf"]
    for name in theirs & ours["metrics"].keys():
        assert shape(ours["metrics"][name]) == shape(real["metrics"][name]), name


def test_genai_perf_summary_has_the_real_keys():
    ours = json.loads(EXPORTS["genai-perf"](RESULT)["profile_export_genai_perf.json"])
    real = json.loads(text_of(f"{GENAI_PERF}.json"))
    assert_covers(ours, real)
    assert {n: v["unit"] for n, v in real.items() if "unit" in v} == {
        n: v["unit"] for n, v in ours.items() if "unit" in v
    }
    for part in ("endpoint", "perf_analyzer", "input"):
        assert ours["input_config"][part].keys() <= real["input_config"][part].keys()


def test_genai_perf_csv_has_the_real_rows():
    ours = EXPORTS["genai-perf"](RESULT)["profile_export_genai_perf.csv"].splitlines(keepends=True)
    real = (DATA / f"{GENAI_PERF}.csv").read_bytes().decode().splitlines(keepends=True)
    assert [line.partition(",")[0] for line in ours] == [line.partition(",")[0] for line in real]
    assert all(line.endswith("\r\n") for line in ours)


def test_vllm_result_has_the_real_keys():
    ours = json.loads(EXPORTS["vllm"](RESULT)["vllm.json"])
    real = json.loads(text_of(VLLM))
    assert_covers(ours, real, NOT_OURS["vllm"], skip=("label", "tokenizer_id", "request_rate"))


# Our exports read again give our figures


def our_figures(one):
    """All that other tools' files can hold of our metrics."""
    return one.metrics.as_dict() | {"token_sources": [], "input_tokens_source": []}


def closed_result():
    """As the driver makes it: the first request of each slot is the lead-in."""
    steady = steady_run(0)
    records = [dataclasses.replace(r, phase="lead-in" if r.index < 2 else "measured") for r in steady.records]
    return result([dataclasses.replace(steady, records=tuple(records))])


def flat(value):
    """Numbers to compare; None, which approx does not know, as -1."""
    held = value.items() if isinstance(value, dict) else [("", value)]
    return {key: -1.0 if v is None else v for key, v in held if isinstance(v, int | float | None)}


def lists_equal(ours, theirs, left_out):
    """Equal but for what the import says it leaves out, which has no value."""
    for key, value in ours.items():
        metric = key.removesuffix("_ms")
        if metric in left_out:
            assert theirs[key].get("n", theirs[key].get("value")) in (0, None), key
        else:
            assert flat(theirs[key]) == pytest.approx(flat(value), rel=1e-5), key


@pytest.mark.parametrize("name", ["aiperf", "vllm", "csv", "parquet", "perf_analyzer"])
def test_requests_give_the_same_figures(name):
    ours = closed_result()
    if name == "perf_analyzer":
        found = parse_import(json.dumps(profile_export([ours], "openai")), name)
    elif name == "parquet":
        found = requests_rows(list(request_rows(ours.runs)), name)
    else:
        files = EXPORTS[name](ours)
        text = files["profile_export.jsonl" if name == "aiperf" else next(iter(files))]
        found = parse_import(text, name, beside=files.get("profile_export_aiperf.json"))
    points = tuple(dataclasses.replace(p, concurrency=2) for p in found.points)
    (theirs,) = imported_results(dataclasses.replace(found, points=points), "a", imported_environment("there"))
    left_out = {*found.points[0].unknown} | ({"input_tokens"} if name == "perf_analyzer" else set())
    if name == "perf_analyzer":  # it leaves the lead-in out
        assert theirs.metrics.distributions["itl"].mean == pytest.approx(ours.metrics.distributions["itl"].mean)
        assert theirs.metrics.distributions["ttft"].n == 16
        return
    lists_equal(our_figures(ours), our_figures(theirs), left_out)


def test_runs_of_our_exports_stay_apart():
    files = EXPORTS["aiperf"](RESULT)
    lines = parse_import(files["profile_export.jsonl"], "x", beside=files["profile_export_aiperf.json"])
    detailed = parse_import(EXPORTS["vllm"](RESULT)["vllm.json"], "x")
    assert [[len(run) for run in found.points[0].runs] for found in (lines, detailed)] == [[20, 21]] * 2


def test_aiperf_lines_give_the_distributions_of_its_summary():
    files = EXPORTS["aiperf"](RESULT)
    (whole,) = parse_import(files["profile_export_aiperf.json"], "x").points
    (lines,) = parse_import(files["profile_export.jsonl"], "x").points
    for name in ("time_to_first_token", "request_latency", "inter_token_latency", "inter_chunk_latency"):
        assert lines.metrics[name]["p50"] == pytest.approx(whole.metrics[name]["p50"], rel=1e-4)


# Damaged, or of another tool

BAD = {
    "": "the file is empty",
    "nonsense": r"x\.json:1: not JSON, or cut off",
    "[]": "a JSON list and not an object",
    "{}": "of no tool that is known",
    '{"metadata": {}}': "of no tool that is known",
    '{"a": 1}': "of no tool that is known",
    '{"schema": "llmperf.report/1", "points": []}': "of no tool that is known",
    " Metric,avg\nTime To First Token (ms),1\nMetric,avg\n": "no request latency",
    "Metric,avg\nTime To First Token (ms),1,2\n": r"x\.json:2: 3 cells, and 2 columns",
    "Metric,avg\nTime To First Token (ms),many\n": r"x\.json:2: 'many' is no number",
    "Metric,avg\nTime To First Token (ms),1\n": "no request latency",
    "Config Name,Concurrency,ISL,Num Dataset Entries\n": "no row below the header",
    "run,index\n1,1\n": r"x\.json:2: no column 'phase'",
    '{"experiments": 1, "version": "2"}': "experiments is 1, not of type list",
    '{"version": "", "experiments": [{"experiment": {"mode": "rate"}}]}': r"experiment 1: no 'experiment\.value'",
}


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_read_is_told(text):
    with pytest.raises(ImportFileError, match=BAD[text]) as caught:
        parse_import(text, "x.json")
    assert "x.json" in str(caught.value)


@pytest.mark.parametrize("name", [AIPERF, PERF_ANALYZER, f"{GENAI_PERF}.json", VLLM, GUIDELLM])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_names_its_line(name, share):
    text = text_of(name).rstrip()
    with pytest.raises(ImportFileError, match=r"x:\d+: not JSON, or cut off"):
        parse_import(text[: int(len(text) * share)], "x")


def test_the_damaged_line_of_many_is_named():
    lines = text_of(AIPERF_LINES).splitlines()
    with pytest.raises(ImportFileError, match="x:3: not JSON, or cut off"):
        parse_import("\n".join([*lines[:2], lines[2][:50]]), "x")
    other = json.dumps({"metadata": {"request_start_ns": "now"}, "metrics": {}})
    with pytest.raises(ImportFileError, match=r"x:2: metadata.request_start_ns is 'now', not of type int"):
        parse_import(f"{lines[0]}\n{other}", "x")


@pytest.mark.parametrize("key", ["ttfts", "errors", "start_times"])
def test_lists_of_unequal_length_are_refused(key):
    document = json.loads(text_of(VLLM))
    document[key].pop()
    with pytest.raises(ImportFileError, match="lists of requests are of unequal length"):
        parse_import(json.dumps(document), "x")


def test_a_missing_fact_of_a_request_is_named():
    document = json.loads(text_of(GUIDELLM))
    del document["benchmarks"][0]["requests"]["successful"][1]["info"]["timings"]["request_start"]
    with pytest.raises(ImportFileError, match="x: benchmark 1: successful request 2: no 'request_start'"):
        parse_import(json.dumps(document), "x")


def test_responses_without_their_texts_are_refused():
    document = json.loads(text_of(PERF_ANALYZER))
    document["experiments"][0]["requests"][2]["response_outputs"].pop()
    with pytest.raises(
        ImportFileError, match="experiment 1: request 3: 10 response_timestamps, and 9 response_outputs"
    ):
        parse_import(json.dumps(document), "x")


# The command line


def llmperf(*arguments):
    return CliRunner().invoke(main, ["import", *map(str, arguments)])


def test_figures_are_shown_under_both_definitions():
    done = llmperf(DATA / VLLM)
    assert done.exit_code == 0, done.output
    assert "by the definitions of vllm bench serve" in done.output
    assert "tpot_ms (ms)" in done.output
    assert "Inter-token latency (ms)" in done.output
    assert "left out ttfo: vLLM does not tell reasoning from answer" in done.output


def test_a_file_without_its_load_asks_for_it(tmp_path):
    alone = tmp_path / "profile_export.jsonl"
    alone.write_text(text_of(AIPERF_LINES))
    done = llmperf(alone)
    assert done.exit_code == 1
    assert "does not say its load; give --concurrency N, or --request-rate R" in done.output
    assert llmperf(alone, "--concurrency", 2).exit_code == 0
    assert "give one of them" in llmperf(alone, "--concurrency", 2, "--request-rate", 3).output


def test_files_become_a_report_that_compares_them(tmp_path):
    done = llmperf(
        DATA / VLLM, DATA / PERF_ANALYZER, DATA / AIPERF, "--output", tmp_path, "--json", tmp_path / "r.json"
    )
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["schema"] == "llmperf.report/1"
    requests, _, statistics = report["points"]
    assert [p["load"]["concurrency"] for p in report["points"]] == [2, 2, 2]
    assert requests["remarks"][0].startswith("imported from vllm bench serve")
    assert requests["runs"][0]["metrics"]["ttft_ms"]["n"] == 4
    assert (statistics["runs"], statistics["metrics"]["ttft_ms"]["n"]) == ([], 6)
    (comparison,) = report["comparisons"]
    assert comparison["configurations"] == ["vllm_bench_serve_0.32_detailed", "genai_perf_0.0.16_profile_export"]
    assert any("not sent the same requests" in note for note in comparison["notes"])
    assert len(list((tmp_path / "requests").iterdir())) == 2


def test_files_become_an_html_report(tmp_path):
    pytest.importorskip("plotly")
    done = llmperf(DATA / VLLM, DATA / AIPERF, "--html", tmp_path / "r.html")
    assert done.exit_code == 0, done.output
    assert "imported from AIPerf 0.13.0" in (tmp_path / "r.html").read_text()


def test_parquet_is_read(tmp_path):
    pytest.importorskip("pyarrow")
    from pytest_llmperf.metrics.frame import write_parquet

    write_parquet(closed_result().runs, tmp_path / "r.parquet")
    assert llmperf(tmp_path / "r.parquet", "--concurrency", 2).exit_code == 0
    (tmp_path / "r.parquet").write_text("nonsense")
    assert "is no Parquet file" in llmperf(tmp_path / "r.parquet").output


def test_a_page_needs_its_libraries(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    done = llmperf(DATA / VLLM, "--html", tmp_path / "r.html")
    assert done.exit_code == 2
    assert "--html needs plotly and jinja2" in done.output


def test_a_report_that_cannot_be_written_is_told(tmp_path):
    done = llmperf(DATA / VLLM, "--json", DATA / VLLM / "r.json")
    assert done.exit_code == 1
    assert "Error: not written: File exists" in done.output
