"""Exports in other tools' formats, and the same files read again."""

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from samples import failed, record, result, run, steady_run

from pytest_llmperf.cli import main
from pytest_llmperf.dialects import dialect_metrics
from pytest_llmperf.interchange.exports import EXPORTS
from pytest_llmperf.interchange.frame import COLUMNS, write_parquet
from pytest_llmperf.interchange.imports import ImportFileError, parse_import

RESULT = result([steady_run(0), run([*steady_run(1).records, failed(status=500)], 1)])


def test_genai_perf_round_trip():
    files = EXPORTS["genai-perf"](RESULT)
    found = parse_import(files["profile_export_genai_perf.json"], "x")
    theirs = dialect_metrics("genai-perf", RESULT.runs)
    assert (found.tool, found.model) == ("genai-perf", "m")
    assert set(found.metrics) == set(theirs)
    for name, values in theirs.items():
        assert found.metrics[name]["avg"] == values.get("mean", values.get("value"))
    assert found.metrics["time_to_first_token"]["p99"] == theirs["time_to_first_token"]["p99"]
    assert found.metrics["output_token_throughput"]["unit"] == "tokens/sec"


def test_genai_perf_csv_has_its_two_tables():
    text = EXPORTS["genai-perf"](RESULT)["profile_export_genai_perf.csv"]
    requests, rates = (list(csv.reader(io.StringIO(part))) for part in text.split("\n\n"))
    assert requests[0] == ["Metric", "avg", "min", "max", "p99", "p95", "p90", "p75", "p50", "p25", "p10", "p5", "p1"]
    assert requests[1][0] == "Time To First Token (ms)"
    assert rates[0] == ["Metric", "Value"]
    titles = [row[0] for row in rates[1:]]
    assert titles == ["Output Token Throughput (tokens/sec)", "Request Throughput (per sec)", "Request Count (count)"]


def test_aiperf_round_trip():
    files = EXPORTS["aiperf"](RESULT)
    found = parse_import(files["profile_export_aiperf.json"], "x")
    theirs = dialect_metrics("aiperf", RESULT.runs)
    assert found.tool == "aiperf"
    assert found.metrics["request_latency"]["p90"] == theirs["request_latency"]["p90"]
    (error,) = json.loads(files["profile_export_aiperf.json"])["error_summary"]
    assert (error["count"], error["error_details"]["message"]) == (1, "HTTP 500")


def test_aiperf_lines_give_the_same_distributions():
    files = EXPORTS["aiperf"](RESULT)
    whole = parse_import(files["profile_export_aiperf.json"], "x").metrics
    lines = parse_import(files["profile_export.jsonl"], "x").metrics
    assert len(files["profile_export.jsonl"].splitlines()) == 41
    for name in ("time_to_first_token", "request_latency", "inter_token_latency"):
        assert lines[name]["p50"] == pytest.approx(whole[name]["p50"], rel=1e-4)


def test_vllm_round_trip():
    text = EXPORTS["vllm"](RESULT)["vllm.json"]
    found, theirs = parse_import(text, "x"), dialect_metrics("vllm", RESULT.runs)
    document = json.loads(text)
    assert (found.tool, document["completed"], document["failed"]) == ("vllm", 40, 1)
    assert document["median_ttft_ms"] == document["p50_ttft_ms"] == theirs["ttft_ms"]["p50"]
    assert found.metrics["e2el_ms"]["avg"] == theirs["e2el_ms"]["mean"]
    assert len(document["itls"]) == len(document["ttfts"]) == len(document["errors"]) == 41
    assert document["ttfts"][0] == pytest.approx(0.01)


def test_results_without_a_success_are_written_too():
    for name, make in EXPORTS.items():
        for file, text in make(result([run([failed()])])).items():
            assert text, (name, file)


def test_csv_and_frame_have_the_same_rows():
    rows = list(csv.DictReader(io.StringIO(EXPORTS["csv"](RESULT)["requests.csv"])))
    frame = RESULT.to_frame()
    assert list(frame.columns) == list(COLUMNS)
    assert len(rows) == len(frame) == 41
    assert float(rows[0]["ttft_ms"]) == frame["ttft_ms"][0] == 10.0
    assert not frame["ok"].iloc[-1]


def test_a_frame_counts_from_due_in_open_loop():
    frame = result([run([record(5.0, [9.0, 10.0], due_ms=0.0)])]).to_frame()
    assert frame["ttft_ms"][0] == 9.0


def test_parquet_holds_the_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(RESULT.runs, tmp_path / "r.parquet")
    table = parquet.read_table(tmp_path / "r.parquet")
    assert table.column_names == list(COLUMNS)
    assert table.column("sent_ns")[0].as_py() == RESULT.runs[0].records[0].sent_ns


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"metadata": {}}', '{"a": 1}'])
def test_what_is_no_such_file_is_named(text):
    with pytest.raises(ImportFileError, match=r"x\.json is neither"):
        parse_import(text, "x.json")


def test_import_on_the_command_line(tmp_path):
    path = tmp_path / "profile_export_genai_perf.json"
    path.write_text(EXPORTS["genai-perf"](RESULT)[path.name])
    done = CliRunner().invoke(main, ["import", str(path)])
    assert done.exit_code == 0, done.output
    assert "by the definitions of genai-perf, model m" in done.output
    assert "time_to_first_token (ms)" in done.output
    path.write_text("{}")
    done = CliRunner().invoke(main, ["import", str(path)])
    assert done.exit_code == 1
    assert "is neither" in done.output


def test_a_real_file_of_vllm_bench_serve():
    """Of vLLM 0.32, `--save-result`, against the embedded engine; only the path of the tokenizer was cut."""
    text = (Path(__file__).parent / "data" / "vllm_bench_serve_0.32.json").read_text()
    found = parse_import(text, "vllm.json")
    assert (found.tool, found.model) == ("vllm", "embedded")
    assert {"avg", "p50", "p99", "std"} <= set(found.metrics["ttft_ms"])
    assert found.metrics["completed"]["avg"] == 12
    ours = json.loads(EXPORTS["vllm"](RESULT)["vllm.json"])
    left_out = set(json.loads(text)) - set(ours)
    assert left_out <= NOT_OURS, "what we write has every key of theirs for which there is a fact"


NOT_OURS = {
    *("max_output_tokens_per_s", "max_concurrent_requests", "request_goodput", "rtfx", "queue_times"),
}
