"""Other tools' files held against what they say of themselves: which tool, which totals, which load; and odd values."""

import copy
import gzip
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from import_samples import (
    AIPERF_CSV,
    aiperf_line,
    aiperf_old,
    guidellm,
    guidellm_old,
    perf_analyzer,
    sglang,
    sglang_details,
)

from pytest_llmperf.cli.main import main
from pytest_llmperf.interchange.readers.detect import parse_import
from pytest_llmperf.interchange.readers.shared.fields import ImportFileError
from pytest_llmperf.interchange.results import imported_environment, imported_results

DATA = Path(__file__).parents[2] / "data"
VLLM = json.loads((DATA / "vllm_bench_serve_0.32.json").read_text())
DETAILED = json.loads((DATA / "vllm_bench_serve_0.32_detailed.json").read_text())


def results(document, count=None):
    text = document if isinstance(document, str) else json.dumps(document)
    return imported_results(parse_import(text, "x", count=count), "a", imported_environment("there"))


def refusal(document):
    with pytest.raises(ImportFileError) as caught:
        results(document)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def means(one):
    """TTFT, ITL, E2E and output tokens of a result; None where the file does not tell."""
    return tuple(one.metrics.distributions[name].mean for name in ("ttft", "itl", "e2e", "output_tokens"))


# Which tool


@pytest.mark.parametrize(
    "document",
    [
        {"mean_ttft_ms": 1.0},
        {"benchmarks": [{"name": "test_a", "stats": {}}], "machine_info": {}},
        {"experiments": []},
        {"aiperf_version": "1.0"},
        {"input_config": {}, "request_latency": {"unit": "ms", "avg": 1.0}},
        {"metadata": {"guidellm_version": "0.5.4"}},
    ],
)
def test_one_key_tells_no_tool(document):
    assert "of no tool that is known" in refusal(document)
    assert repr(next(iter(document))) in refusal(document), "what was found"


def test_a_file_that_two_tools_could_have_written_is_refused():
    assert "vllm bench serve and SGLang bench_serving could both have written it" in refusal(VLLM | sglang())


@pytest.mark.parametrize(("version", "told"), [("0.8.1", False), ("0.5.4", False), ("0.9.0", True), ("1.0.0rc1", True)])
def test_a_newer_version_is_told(version, told):
    (one,) = results(guidellm(version=version))
    assert (
        any(f"written by GuideLLM {version}, which is newer than what was tested (0.8.1)" in r for r in one.remarks)
        == told
    )


# What a file totals


def test_prompts_that_did_not_complete_failed():
    """Before vLLM wrote `failed`, only the difference told."""
    document = {key: value for key, value in VLLM.items() if key != "failed"} | {"completed": 9}
    (one,) = results(document)
    assert (one.metrics.sent, one.metrics.ok, one.metrics.failed) == (12, 9, 3)
    assert one.metrics.scalars["error_rate"] == 0.25
    assert any("its request_throughput is" in remark for remark in one.remarks)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"completed": 9, "failed": 0}, "totals 12 prompts, of which 9 completed and 0 failed"),
        ({"completed": 13, "failed": None}, "totals 12 prompts, of which 13 completed"),
    ],
)
def test_totals_of_vllm_that_contradict_each_other(change, told):
    assert told in refusal(VLLM | change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"completed": 5}, "totals 5 requests that completed, and 6 were read"),
        ({"failed": 2}, "totals 2 requests that failed, and 0 were read"),
        ({"total_output_tokens": 47}, "totals 47 output tokens, and 48 were read"),
        ({"num_prompts": 8}, "totals 8 prompts, and 6 were read"),
    ],
)
def test_totals_of_vllm_that_its_requests_contradict(change, told):
    assert told in refusal(DETAILED | change)


def test_totals_of_guidellm_that_its_requests_contradict():
    document = guidellm()
    del document["benchmarks"][0]["requests"]["successful"][3]
    assert "totals 20 successful requests, and 19 were read" in refusal(document)
    document = guidellm()
    document["benchmarks"][0]["requests"]["successful"][3]["output_tokens"] = 7
    assert "totals 160 output tokens of successful requests, and 159 were read" in refusal(document)


def test_a_sample_of_the_requests_has_the_counts_and_rates_of_all():
    (one,) = results(guidellm(stored=3))
    assert (one.metrics.sent, one.metrics.ok, one.metrics.failed) == (24, 20, 4)
    assert one.metrics.scalars["error_rate"] == pytest.approx(4 / 24)
    assert one.metrics.scalars["request_throughput"] == 10.0
    assert one.metrics.scalars["output_token_throughput"] == 80.0
    assert one.metrics.scalars["total_token_throughput"] == 320.0
    assert one.metrics.scalars["concurrency_mean"] is None
    assert one.metrics.distributions["ttft"].n == 3
    assert one.summaries == (one.metrics,)
    assert any("latencies are from a sample of 3 of 20 successful requests" in remark for remark in one.remarks)
    assert not any("left out" in r and "output_token_throughput," in r for r in one.remarks)


def test_the_warm_up_is_not_measured():
    (one,) = results(guidellm(warmup_s=1.0, type_="constant", rate=10.0))
    assert (one.metrics.sent, one.metrics.ok, one.metrics.failed) == (15, 15, 0), "all 4 failures were before"
    assert any("9 requests of warm-up and cool-down were left out" in remark for remark in one.remarks)
    lines = [aiperf_line(0, "warmup"), *(aiperf_line(number) for number in range(1, 5))]
    found = parse_import("\n".join(map(json.dumps, lines)), "x")
    assert [len(run) for run in found.points[0].runs] == [4]
    assert "1 requests of the warm-up were left out" in found.points[0].notes


def test_a_summary_beside_aiperfs_lines_must_be_of_the_same_run():
    lines = "\n".join(json.dumps(aiperf_line(number)) for number in range(4))
    found = parse_import(lines, "x", beside=json.dumps(aiperf_old(ok=4)))
    assert (found.model, found.points[0].concurrency) == ("m", 2)
    with pytest.raises(ImportFileError, match="totals 5 requests that succeeded, and 4 were read"):
        parse_import(lines, "x", beside=json.dumps(aiperf_old(ok=5)))


# Versions of tools


def test_aiperf_before_it_wrote_its_version():
    (one,) = results(aiperf_old(ok=3, errors=1))
    assert (one.metrics.ok, one.metrics.failed, one.load.concurrency) == (3, 1, 2)
    assert means(one) == (60.0, 10.0, 130.0, None)
    assert "totals 2 failed requests, and 1 were read" in refusal(
        aiperf_old(ok=3, errors=1) | {"error_summary": [{"count": 2}]}
    )


def test_the_csv_of_aiperf():
    found = parse_import(AIPERF_CSV, "x")
    (point,) = found.points
    assert (found.tool, point.ok, point.failed) == ("aiperf", 4, 1)
    assert (point.known["e2e"].mean, point.known["ttft"].stat("p99")) == (1130.0, 70.0)


@pytest.mark.parametrize(
    ("edited", "message"),
    [
        ({"median_ttft_ms": 99.0, "p99_ttft_ms": 60.0}, "x: ttft_ms: p50 (99) is above p99 (60)"),
        ({"p90_itl_ms": 4.0, "p99_itl_ms": 3.9}, "x: itl_ms: p90 (4) is above p99 (3.9)"),
    ],
)
def test_statistics_that_contradict_each_other_were_edited(edited, message):
    with pytest.raises(ImportFileError) as error:
        parse_import(json.dumps(VLLM | edited), "x")
    assert str(error.value) == message


def test_a_mean_outside_of_its_sample_was_edited():
    with pytest.raises(ImportFileError, match=r"mean \(1150\) is not between min \(1120\) and max \(1140\)"):
        parse_import(AIPERF_CSV.replace("1,130.00", "1,150.00"), "x")


def test_guidellm_before_it_wrote_its_version():
    (one,) = results(guidellm_old())
    assert one.metrics.ok == 4, "two are the lead-in"
    assert means(one) == pytest.approx((50.0, 10.0, 120.0, 8.0), abs=1e-3)


@pytest.mark.parametrize(
    "make", [lambda: aiperf_old(ok=0, errors=4), lambda: guidellm(ok=0), lambda: VLLM | {"completed": 0, "failed": 12}]
)
def test_files_of_failures_alone(make):
    (one,) = results(make())
    assert one.metrics.scalars["error_rate"] == 1.0
    assert means(one) == (None, None, None, None)
    assert not one.valid


# Loads

RAMP = {"request_rate": "inf", "max_concurrency": None, "ramp_up_strategy": "linear"}
RAMP |= {"ramp_up_start_rps": 2, "ramp_up_end_rps": 50}


@pytest.mark.parametrize(
    "document",
    [
        DETAILED | RAMP,
        VLLM | {"request_rate": "inf", "rps_change_events": [{"rps": 2, "timestamp": "2026-11-21T00:00:00"}]},
        guidellm(rampup_duration=3.0),
        guidellm(type_="trace"),
        aiperf_old(concurrency=8, concurrency_ramp_duration=5.0),
        sglang("trace"),
        sglang(float("inf"), None),
    ],
)
def test_what_is_neither_a_concurrency_nor_a_rate(document):
    (one,) = results(document)
    assert (one.load.concurrency, one.load.request_rate) == (None, None)
    assert any("the load was no fixed concurrency or rate: " in remark for remark in one.remarks)
    assert one.metrics.distributions["ttft"].n == 0, "nobody knows when a request was due"


def test_a_rate_of_infinity_is_a_closed_loop():
    (one,) = results(sglang(float("inf"), 16))
    assert (one.load.concurrency, one.load.request_rate) == (16, None)
    assert means(one) == (230.0, 10.0, 1500.0, None)
    assert one.metrics.scalars["error_rate"] is None, "the file does not say how many were sent"


@pytest.mark.parametrize("wrong", [0, -3, True, "2", float("nan"), 1.5])
def test_what_is_no_concurrency(wrong):
    assert "max_concurrency is" in refusal(VLLM | {"max_concurrency": wrong})


# Several runs in a file


def test_lines_of_sglang_are_points():
    rates = [results(f"{json.dumps(sglang(8.0))}\n{json.dumps(sglang(rate))}\n") for rate in (16.0, 8.0)]
    assert [[one.load.request_rate for one in pair] for pair in rates] == [[8.0, 16.0], [8.0, 8.0]]
    assert [one.point_id for one in rates[1]] == ["a-import-8rps", "a-import-8rps#2"], "none hides the other"


def test_an_appended_run_of_vllm_is_a_point():
    text = json.dumps(VLLM) + "\n" + json.dumps(VLLM | {"max_concurrency": 4})
    assert [one.load.concurrency for one in results(text)] == [2, 4]
    assert "x:2: not JSON, or cut off" in refusal(text[:-40])
    assert "x:2: a run of model 'b' after one of 'embedded'" in refusal(
        json.dumps(VLLM) + json.dumps(VLLM | {"model_id": "b"}).join("\n ")
    )
    assert "x:2: a second document, of SGLang" in refusal(f"{json.dumps(VLLM)}\n{json.dumps(sglang())}")
    assert "a second document" in refusal(json.dumps(guidellm()) * 2)


def test_requests_of_sglang():
    (one,) = results(sglang_details())
    assert (one.metrics.ok, one.metrics.failed) == (2, 1)
    assert means(one) == pytest.approx((200.0, 10.0, 230.0, 4.0))
    assert "no request completed, and it does not say how many failed" in refusal(sglang(completed=0))


# Answers that were not streamed

WHOLE = {
    "choices": [{"message": {"content": "a b c d"}, "finish_reason": "length"}],
    "usage": {"completion_tokens": 4},
}
WHOLE_TGI = {"generated_text": "a b c d", "details": {"generated_tokens": 4, "finish_reason": "length"}}


@pytest.mark.parametrize(
    "document",
    [
        sglang(float("inf"), 16, mean_itl_ms=0.0, median_itl_ms=0.0, p99_itl_ms=0.0, std_itl_ms=0.0),
        perf_analyzer([json.dumps(WHOLE)], [130]),
        perf_analyzer([json.dumps([WHOLE_TGI])], [130]),
        perf_analyzer([json.dumps({"model_name": "m", "text_output": "a b c d"})], [130]),
        perf_analyzer(["a b c d"], [130], key="text_output"),
    ],
)
def test_an_unstreamed_answer_has_no_times_within(document):
    (one,) = results(document)
    ttft, itl, e2e, tokens = means(one)
    assert (ttft, itl) == (None, None)
    assert e2e in (130.0, 1500.0)
    assert tokens in (4.0, None)
    assert any("answers were not streamed" in remark for remark in one.remarks)


def test_a_tokenizer_counts_unstreamed_answers():
    (one,) = results(
        perf_analyzer([json.dumps({"text_output": "a b c d"})], [130]), count=lambda text: len(text.split())
    )
    assert means(one) == (None, None, 130.0, 4.0)


# Dialects of responses


def tgi(text, whole=None):
    event = {"index": 1, "token": {"id": 5, "text": text, "special": False}, "generated_text": whole, "details": None}
    return (
        "data:"
        + json.dumps(
            event if whole is None else event | {"details": {"finish_reason": "length", "generated_tokens": 4}}
        )
        + "\n\n"
    )


def chat(text, reason=None):
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]})


@pytest.mark.parametrize(
    "responses",
    [
        [tgi("a"), tgi("b"), tgi("c"), tgi("d", "abcd")],
        [f"data: {json.dumps({'model_name': 'm', 'text_output': text})}\n\n" for text in "abcd"],
        [chat("a"), chat("b"), chat("c"), chat("d", "length")],
        [f"data: {chat(text)}" for text in "abc"] + [f"data: {chat('d', 'length')}"],
    ],
    ids=["TGI", "Triton", "bodies", "no empty lines"],
)
def test_streams_of_several_apis(responses):
    (one,) = results(perf_analyzer(responses, [100, 110, 120, 130]))
    assert means(one) == (100.0, 10.0, 130.0, 4.0)


def test_what_no_api_answers_is_a_failed_request():
    (one,) = results(perf_analyzer(["hello", "there"], [100, 110]))
    assert (one.metrics.ok, one.valid) == (0, False)


# Odd values


@pytest.mark.parametrize("key", ["ttfts", "itls", "start_times", "output_lens"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0, 10**400, "1", True, {}])
def test_what_is_no_time_names_the_request(key, wrong):
    listed = [[wrong], *DETAILED[key][1:]] if key == "itls" else [wrong, *DETAILED[key][1:]]
    message = refusal(DETAILED | {key: listed})
    assert key in message
    assert message.startswith("x: ")


def test_a_statistic_of_nan_is_refused():
    assert refusal(json.dumps(VLLM | {"mean_ttft_ms": float("nan")})) == "x: ttft_ms: avg is nan, no time or count"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_what_python_cannot_read(text):
    assert refusal(text).startswith("x")


def test_a_byte_order_mark_is_none_of_the_text(tmp_path):
    (tmp_path / "v.json").write_text(json.dumps(VLLM), encoding="utf-8-sig")
    assert CliRunner().invoke(main, ["import", str(tmp_path / "v.json")]).exit_code == 0


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (gzip.compress(b"{}", mtime=0), "is compressed with gzip"),
        (bytes(range(256)), "is no UTF-8 text"),
        (b"PAR1\0\0", "is no text"),
        (b"", "the file is empty"),
    ],
)
def test_what_is_no_text(tmp_path, data, told):
    (tmp_path / "v.json").write_bytes(data)
    done = CliRunner().invoke(main, ["import", str(tmp_path / "v.json")])
    assert (done.exit_code, told in done.output) == (1, True), done.output
    assert isinstance(done.exception, SystemExit)


def test_half_a_character_can_be_written_again(tmp_path):
    (tmp_path / "v.json").write_text(json.dumps(VLLM | {"model_id": "a\ud800b"}))
    done = CliRunner().invoke(main, ["import", str(tmp_path / "v.json"), "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output


# Anything


def real(name):
    text = (DATA / name).read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else [json.loads(text)]


FILES = {
    **{path.name: real(path.name) for path in sorted(DATA.iterdir()) if path.suffix in (".json", ".jsonl")},
    "sglang": [sglang(8.0), sglang(16.0)],
    "sglang details": [sglang_details()],
    "aiperf 0.3": [aiperf_old(3, 1)],
    "aiperf 0.3 lines": [aiperf_line(number) for number in range(4)],
    "guidellm 0.3": [guidellm_old()],
    "guidellm sampled": [guidellm(stored=3, warmup_s=0.5)],
    "TGI": [perf_analyzer([tgi("a"), tgi("b", "ab")], [1, 2])],
    "body": [perf_analyzer([json.dumps({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]})], [9])],
}
NUMBERS = [True, -1, 0, 1, 10**30, 10**400, -0.5, 1e300, math.nan, math.inf, -math.inf]
ODD = st.sampled_from([None, *NUMBERS, "", "inf", "a\ud800", [], {}, [[]], [None]])


def places(value, path=()):
    """The paths of all values within JSON data."""
    held = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in held:
        yield (*path, key)
        yield from places(inner, (*path, key))


PLACES = {name: list(places(documents)) for name, documents in FILES.items()}


@st.composite
def damaged(draw):
    """The text of a file with some values dropped or replaced, and sometimes cut off."""
    name = draw(st.sampled_from(sorted(FILES)))
    documents = json.loads(json.dumps(FILES[name]))
    for path in draw(st.lists(st.sampled_from(PLACES[name]), min_size=1, max_size=3)):
        try:
            holder = documents
            for key in path[:-1]:
                holder = holder[key]
            if draw(st.booleans()):
                holder[path[-1]] = copy.deepcopy(draw(ODD))  # one list within itself is no JSON
            else:
                del holder[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue
    text = "\n".join(map(json.dumps, documents))
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


def assert_plain(one):
    numbers = [
        v for d in one.metrics.distributions.values() for v in (d.n, d.mean, d.std, d.min, d.max, *d.percentiles)
    ]
    for number in (*numbers, *one.metrics.scalars.values()):
        assert number is None or (math.isfinite(number) and number >= 0), number
    assert one.metrics.ok or not one.valid


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(damaged())
def test_any_damage_is_read_or_refused(text):
    try:
        found = results(text)
    except ImportFileError:
        return
    for one in found:
        assert_plain(one)
        assert one.remarks


def test_damaged_tables_are_read_or_refused():
    for name in ("genai_perf_0.0.16_profile_export_genai_perf.csv", "genai_perf_0.0.16_analyze_export_genai_perf.csv"):
        text = (DATA / name).read_text()
        for size in range(len(text)):
            for damage in (text[:size], f"{text[:size]}-{text[size + 1 :]}", f"{text[:size]}nan,{text[size:]}"):
                try:
                    found = results(damage)
                except ImportFileError:
                    continue
                for one in found:
                    assert_plain(one)


# Units


def aiperf_in(unit, value):
    """Four lines whose time to the first token is in a unit."""
    lines = [aiperf_line(number) for number in range(4)]
    for line in lines:
        line["metrics"]["time_to_first_token"] = {"value": value, "unit": unit}
    return "\n".join(map(json.dumps, lines))


@pytest.mark.parametrize(("unit", "value"), [("ms", 60.0), ("s", 0.06), ("us", 60_000.0), ("ns", 60_000_000)])
def test_times_are_read_in_the_unit_that_the_file_gives(unit, value):
    (point,) = parse_import(aiperf_in(unit, value), "x").points
    assert {record.chunk_ns[0] - record.sent_ns for record in point.runs[0]} == {60_000_000}
    (one,) = results(aiperf_old() | {"time_to_first_token": {"unit": unit, "avg": value, "p99": value}})
    assert one.metrics.distributions["ttft"].mean == pytest.approx(60.0)


@pytest.mark.parametrize("unit", ["furlong", None, ""])
def test_an_unknown_unit_of_time_is_refused(unit):
    assert f"its unit is {unit!r}" in refusal(aiperf_in(unit, 1.0))
    known = str(unit)
    assert f"its unit is {known!r}" in refusal(aiperf_old() | {"request_latency": {"unit": unit, "avg": 1.0}})


# Latencies of the requests against those of the run


def test_requests_that_do_not_bear_out_the_means_are_refused():
    slower = DETAILED | {"ttfts": [1000 * ttft for ttft in DETAILED["ttfts"]]}
    assert "its mean_ttft_ms is 12.4005, and 12400.5 over its requests" in refusal(slower)
    gaps = DETAILED | {"itls": [[10 * gap for gap in gaps] for gaps in DETAILED["itls"]]}
    assert "its mean_itl_ms is 3.23287, and 32.3287 over its requests" in refusal(gaps)
    other = sglang_details() | {"mean_ttft_ms": 230.0}
    assert "its mean_ttft_ms is 230, and 200 over its requests" in refusal(other)
    shorter = sglang_details() | {"mean_e2e_latency_ms": 100.0}
    assert "its mean_e2e_latency_ms is 100, and 230 over its requests" in refusal(shorter)


def test_what_the_file_does_not_tell_or_rounds_is_not_held_against_it():
    parse_import(json.dumps(sglang_details() | {"mean_ttft_ms": 200.09, "mean_itl_ms": 0.0}), "x")
    parse_import(json.dumps(sglang_details() | {"mean_e2e_latency_ms": 300.0}), "x")


def test_a_request_longer_than_its_run_is_refused():
    short = sglang_details() | {"duration": 0.2}
    assert "request 0 took 0.23 s, and the whole run 0.2 s" in refusal(short)


@pytest.mark.parametrize(
    ("metric", "value", "told"),
    [
        ("time_to_first_token", 6000.0, "x:1: a first token after 6000 ms in a request of 80 ms"),
        ("request_latency", 800.0, "x:1: a latency of 800 ms in a request that took 80 ms"),
    ],
)
def test_a_line_of_aiperf_whose_times_are_after_its_end_is_refused(metric, value, told):
    line = aiperf_line(0)
    line["metrics"][metric]["value"] = value
    assert told in refusal(json.dumps(line) + "\n" + json.dumps(aiperf_line(1)))


# Statistics that are shown and not compared


@pytest.mark.parametrize("value", [math.nan, math.inf, -5.0])
@pytest.mark.parametrize("document", [VLLM, DETAILED, sglang(), sglang_details()], ids=["v", "vd", "s", "sd"])
def test_no_time_or_count_among_the_figures_that_are_shown_is_refused(document, value):
    assert f"ttft_ms: p95 is {value!r}, no time or count" in refusal(document | {"p95_ttft_ms": value})


# A limit beside a rate


@pytest.mark.parametrize("document", [VLLM | {"request_rate": 8.0, "max_concurrency": 4}, sglang(8.0, 4)])
def test_a_limit_beside_a_rate_is_part_of_the_load(document):
    (one,) = results(document)
    assert (one.load.request_rate, one.load.max_in_flight) == (8.0, 4)
