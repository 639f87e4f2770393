"""Exports in other tools' formats, and the same files read again."""

import csv
import io
import json
from pathlib import Path

import pytest
from answer_samples import side_by_side
from samples import failed, point, record, result, run, steady_run

from pytest_llmperf.interchange.analyze import analyze_files
from pytest_llmperf.interchange.exports import EXPORTS
from pytest_llmperf.interchange.readers.detect import parse_import
from pytest_llmperf.interchange.readers.rows import requests_rows
from pytest_llmperf.metrics.dialects import dialect_metrics
from pytest_llmperf.metrics.frame import COLUMNS, write_parquet
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.summary import summarize

DATA = Path(__file__).parents[1] / "data"

RESULT = result([steady_run(0), run([*steady_run(1).records, failed(status=500)], 1)])


def test_genai_perf_round_trip():
    files = EXPORTS["genai-perf"](RESULT)
    found = parse_import(files["profile_export_genai_perf.json"], "x")
    theirs = dialect_metrics("genai-perf", RESULT.runs)
    (one,) = found.points
    assert (found.tool, found.model, one.concurrency) == ("genai-perf", "m", 2)
    assert set(one.metrics) == set(theirs)
    for name, values in theirs.items():
        assert one.metrics[name]["avg"] == values.get("mean", values.get("value"))
    assert one.metrics["time_to_first_token"]["p99"] == theirs["time_to_first_token"]["p99"]
    assert one.metrics["output_token_throughput"]["unit"] == "tokens/sec"


def test_genai_perf_csv_has_its_two_tables():
    text = EXPORTS["genai-perf"](RESULT)["profile_export_genai_perf.csv"]
    requests, rates = (list(csv.reader(io.StringIO(part))) for part in text.split("\r\n\r\n"))
    assert requests[0] == ["Metric", "avg", "min", "max", "p99", "p95", "p90", "p75", "p50", "p25", "p10", "p5", "p1"]
    assert requests[1][0] == "Time To First Token (ms)"
    assert rates[0] == ["Metric", "Value"]
    titles = [row[0] for row in rates[1:]]
    assert titles == ["Output Token Throughput (tokens/sec)", "Request Throughput (per sec)", "Request Count (count)"]


def test_aiperf_round_trip():
    files = EXPORTS["aiperf"](RESULT)
    found = parse_import(files["profile_export_aiperf.json"], "x")
    theirs = dialect_metrics("aiperf", RESULT.runs)
    assert found.points[0].metrics["request_latency"]["p90"] == theirs["request_latency"]["p90"]
    assert found.points[0].known["e2e"].stat("p90") == theirs["request_latency"]["p90"]
    assert (found.points[0].concurrency, found.points[0].ok) == (2, 20), "numbers of several runs are their mean"
    (error,) = json.loads(files["profile_export_aiperf.json"])["error_summary"]
    assert (error["count"], error["error_details"]["message"]) == (1, "HTTP 500")


def test_vllm_round_trip():
    text = EXPORTS["vllm"](RESULT)["vllm.json"]
    found, theirs = parse_import(text, "x"), dialect_metrics("vllm", RESULT.runs)
    document = json.loads(text)
    assert (found.tool, document["completed"], document["failed"]) == ("vllm", 40, 1)
    assert document["median_ttft_ms"] == document["p50_ttft_ms"] == theirs["ttft_ms"]["p50"]
    assert found.points[0].metrics["e2el_ms"]["avg"] == theirs["e2el_ms"]["mean"]
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


def test_rows_read_again_give_the_numbers_that_they_were_written_with():
    """Bundles, hidden tokens, several answers, answers at one moment: rows keep the first and the last chunk only."""
    bundled = record(0.0, [160.0, 320.0, 340.0], tokens=[16, 16, 2])
    hidden = record(0.0, [210.0, 220.0, 230.0], hidden_tokens=20, output_tokens=23)
    unseen = record(0.0, (), hidden_tokens=20, output_tokens=20, end_ms=300.0)
    clumped = record(0.0, [80.0 * (1 + k // 4) for k in range(16)])
    answers = [bundled, hidden, unseen, clumped, side_by_side((16, 4)), record(0.0, [400.0] * 4), record()]
    before = result([run(answers)], load=point(ignore_eos=False, concurrency=8))
    text = EXPORTS["csv"](before)["requests.csv"]
    found = parse_import(text, "requests.csv")
    after = summarize(run(found.points[0].runs[0]), before.load)
    for name in ("itl", "ttft", "e2e", "output_tokens"):
        assert after.distributions[name].as_dict() == before.metrics.distributions[name].as_dict(), name


def test_a_row_whose_itl_is_0_does_not_tell_its_first_tokens():
    (row,) = csv.DictReader(io.StringIO(EXPORTS["csv"](result([run([record()])]))["requests.csv"]))
    (told, untold) = (requests_rows([row | {"itl_ms": itl}], "r.csv") for itl in (row["itl_ms"], "0.0"))
    assert told.points[0].runs[0][0].first_chunk_tokens == (1.0,)
    assert untold.points[0].runs[0][0].first_chunk_tokens == ()


def test_rows_of_older_files_have_no_hidden_tokens_and_one_answer():
    text = EXPORTS["csv"](RESULT)["requests.csv"]
    older = "\n".join(",".join(line.split(",")[:-4]) for line in text.splitlines())
    assert parse_import(older, "requests.csv") == parse_import(text, "requests.csv")


def test_an_answer_without_any_chunk_has_failed_by_aiperf():
    unseen = record(0.0, (), hidden_tokens=20, output_tokens=20, end_ms=300.0)
    (line,) = EXPORTS["aiperf"](result([run([unseen])]))["profile_export.jsonl"].splitlines()
    assert json.loads(line)["error"]["message"] == "the answer has no text"


def test_a_frame_counts_from_due_in_open_loop():
    frame = result([run([record(5.0, [9.0, 10.0], due_ms=0.0)])]).to_frame()
    assert frame["ttft_ms"][0] == 9.0


def test_parquet_holds_the_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(RESULT.runs, tmp_path / "r.parquet")
    table = parquet.read_table(tmp_path / "r.parquet")
    assert table.column_names == list(COLUMNS)
    assert table.column("sent_ns")[0].as_py() == RESULT.runs[0].records[0].sent_ns


def swept(**sweep: object) -> list[tuple[str, Result]]:
    """Two points of a sweep; the second is twice as fast."""
    (axis, values), *_ = sweep.items()
    loads = [point(name=f"short-{value}", **{axis: value}) for value in values]
    runs = [steady_run(0), steady_run(0, 0.5)]
    made = [result([one], load=load) for one, load in zip(runs, loads, strict=True)]
    return [(f"a.py::test[seqs2-{load.name}]", one) for one, load in zip(made, loads, strict=True)]


def test_a_sweep_is_a_file_of_analyze():
    ((name, text),) = analyze_files(swept(concurrency=(1, 2))).items()
    assert name == "a.py::test[seqs2-short]"
    rows = list(csv.reader(io.StringIO(text)))
    real = list(csv.reader(io.StringIO((DATA / "genai_perf_0.0.16_analyze_export_genai_perf.csv").read_text())))
    assert rows[0] == real[0]
    assert rows[-2:] == real[-2:], "an empty line, and the table of GPUs without any"
    assert [row[:4] for row in rows[1:3]] == [["m_run_config_1", "2", "8", "20"], ["m_run_config_0", "1", "8", "20"]]
    assert text.endswith("\r\n")


def test_a_sweep_over_rates_says_so():
    (text,) = analyze_files(swept(request_rate=(10.0, 20.5))).values()
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0][1] == "Request Rate"
    assert [row[1] for row in rows[1:3]] == ["20.5", "10.0"]


def test_one_point_is_no_sweep():
    assert analyze_files(swept(concurrency=(1, 2))[:1]) == {}


def test_the_file_of_analyze_is_read_again():
    (text,) = analyze_files(swept(concurrency=(1, 2))).values()
    faster, slower = parse_import(text, "a.csv").points
    assert (faster.concurrency, slower.concurrency) == (2, 1)
    assert faster.known["e2e"].stat("p99") == pytest.approx(slower.known["e2e"].stat("p99") / 2, abs=0.01)
