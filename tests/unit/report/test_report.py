"""Reports: the JSON document, the JUnit properties, the tables."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from samples import HEALTH, MS, START_NS, failed, point, record, result, run, server, steady_run

from pytest_llmperf.definitions import METRICS, STATISTICS
from pytest_llmperf.gate.baselines.growth import recorded, stored_session
from pytest_llmperf.gate.regression import Against, Regression, gated_margins, gated_series
from pytest_llmperf.gate.sla import check_sla
from pytest_llmperf.gate.verdict import judge
from pytest_llmperf.records import HostLoad
from pytest_llmperf.report.json.properties import outcome_properties
from pytest_llmperf.report.media import report_document, summary
from pytest_llmperf.report.terminal.remarks import remark_lines
from pytest_llmperf.report.text import number
from pytest_llmperf.report.views.names import distinguished
from pytest_llmperf.report.views.standing import standing
from pytest_llmperf.report.views.verdicts import describe, failure_text
from pytest_llmperf.runner.describe import describe_load, load_seconds
from pytest_llmperf.runner.outcomes import Outcome, RunFolder, request_lines

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MARGINS = gated_margins(point(), {})


def outcome(found=None, point_id="seqs2-short", limit="<= 1 s", slowness=1.0, notes=()) -> Outcome:
    """A checked point whose baseline was `slowness` times slower."""
    found = replace(found or result([steady_run(n) for n in range(5)]), point_id=point_id)
    then = replace(result([steady_run(n, slowness) for n in range(5)]), environment=found.environment)
    then = replace(then, server=found.server, load=found.load)
    checks = check_sla(point(sla={"ttft_p99": limit, "error_rate": "<= 0"}).sla, found, 8)
    regression = None
    if found.runs:
        baseline = recorded(Path("b.json"), "a.py::t", then, stored_session(then, STARTED, None), MARGINS)
        series, _ = gated_series(baseline, found, MARGINS)
        regression = Regression(judge({"a": series})["a"], notes)
    return Outcome(f"a.py::t[{point_id}]", point_id, found, checks, regression, passed=True)


INVALID = result([steady_run(n, client=replace(HEALTH, cpu_share=0.99)) for n in range(5)])
EMPTY = result([])
FAILED = result([run([failed()] * 3)])


def document(*outcomes: Outcome):
    return json.loads(json.dumps(report_document(outcomes, STARTED), allow_nan=False))


def test_the_head_of_the_document():
    report = document(outcome())
    assert (report["schema"], report["started"]) == ("llmperf.report/1", "2026-01-02T03:04:05+00:00")
    assert report["environment"]["slug"] == "h200x1-embedded"
    assert set(report["definitions"]) == {metric.key for metric in METRICS.values()}


def test_a_point_of_the_document():
    (found,) = document(outcome(notes=("driver was 1, is 2",)))["points"]
    assert {name: found[name] for name in ("id", "valid", "invalid_reasons", "timestamps", "trace_hash")} == {
        "id": "seqs2-short",
        "valid": True,
        "invalid_reasons": [],
        "timestamps": "kernel",
        "trace_hash": "trace-1",
    }
    assert found["server"]["args"] == {"max-num-seqs": 2}
    assert found["load"]["concurrency"] == 2
    for metrics in (found["metrics"], *(r["metrics"] for r in found["runs"])):
        for name in ("ttft_ms", "itl_ms", "e2e_ms"):
            assert set(metrics[name]) == {*STATISTICS, "n"}
        assert set(metrics["output_token_throughput"]) == set(metrics["request_throughput"]) == {"value", "unit"}
        assert set(metrics["requests"]) == {"sent", "ok", "failed", "cancelled"}
    assert [r["run"] for r in found["runs"]] == [1, 2, 3, 4, 5]
    assert found["runs"][0]["client"]["stamps"] == "kernel"
    assert found["sla"]["verdict"] == "PASS"
    assert found["sla"]["checks"][0] == {
        "quantity": "ttft_p99",
        "op": "<=",
        "limit": 1000.0,
        "unit": "ms",
        "value": 11.0,
        "n": 100,
        "ok": True,
        "verdict": "PASS",
        "verified": False,
        "reason": "",
    }
    assert found["regression"]["verdict"] == "PASS"
    assert found["regression"]["notes"] == ["driver was 1, is 2"]
    assert {m["quantity"] for m in found["regression"]["metrics"]} == set(map(str, MARGINS))


def test_metrics_stand_in_one_place():
    (found,) = document(outcome())["points"]
    assert "ttft_ms" not in found


@pytest.mark.parametrize("found", [EMPTY, FAILED], ids=["no run", "all failed"])
def test_no_value_is_null(found):
    (seen,) = document(outcome(found))["points"]
    assert seen["metrics"]["ttft_ms"] == {**dict.fromkeys(STATISTICS), "n": 0}
    assert seen["metrics"]["request_throughput"] == {"value": None, "unit": "req/s"}
    assert seen["sla"]["verdict"] == ("INVALID" if found is EMPTY else "FAIL")


@pytest.mark.parametrize(
    ("changes", "sla", "regression"),
    [
        ({}, "PASS", "PASS"),
        ({"sla": None, "regression": None}, "NOT CHECKED", "NOT CHECKED"),
        ({"sla": ()}, "NOT CHECKED", "PASS"),
        ({"result": INVALID}, "INVALID", "PASS"),
    ],
)
def test_verdicts(changes, sla, regression):
    made = replace(outcome(), **changes)
    (found,) = document(made)["points"]
    assert (found["sla"]["verdict"], found["regression"]["verdict"]) == (sla, regression)
    assert {
        name: value for name, value in outcome_properties(made) if name in ("llmperf.sla", "llmperf.regression")
    } == {
        "llmperf.sla": sla,
        "llmperf.regression": regression,
    }


def test_a_point_that_was_never_measured():
    skipped = Outcome("a.py::t[s]", "s", None, error="skipped: needs 8 GPUs, found 0")
    assert document(skipped)["points"] == [
        {"id": "s", "test": "a.py::t[s]", "passed": None, "error": "skipped: needs 8 GPUs, found 0"}
    ]
    assert document(skipped)["environment"] == {}
    assert not list(outcome_properties(skipped))


def test_points_of_several_environments():
    report = document(outcome(), outcome(result(slug="cpu-embedded")))
    assert set(report["environments"]) == {"h200x1-embedded", "cpu-embedded"}
    assert [p["environment"] for p in report["points"]] == ["h200x1-embedded", "cpu-embedded"]


def test_a_line_per_request():
    lines = [json.loads(json.dumps(line, allow_nan=False)) for line in request_lines(run([failed()], index=1), point())]
    assert [(line["run"], line["error"], line["chunk_ns"]) for line in lines] == [(2, "HTTP 500", [])]


@pytest.mark.parametrize("made", [outcome(), outcome(FAILED), outcome(EMPTY), outcome(INVALID)])
def test_properties_are_flat_scalars_of_builtin_types(made):
    properties = dict(outcome_properties(made))
    assert {type(value) for value in properties.values()} <= {str, int, float, bool}
    assert len(properties) == len(list(outcome_properties(made)))
    assert all(name.startswith("llmperf.") for name in properties)


def test_properties_have_units_in_their_names():
    properties = dict(outcome_properties(outcome()))
    assert properties["llmperf.ttft_ms.p99"] == 11.0
    assert properties["llmperf.ttft_ms.n"] == 100
    assert {"llmperf.output_token_throughput_tok_s", "llmperf.request_throughput_req_s"} <= set(properties)
    assert not [name for name in dict(outcome_properties(outcome(FAILED))) if name.startswith("llmperf.ttft_ms.")]


def test_skipped_points_are_told_with_their_reason():
    skipped = [Outcome(f"a.py::t[{name}]", name, None, error="skipped: needs 8 GPUs") for name in ("x", "y")]
    assert "skipped: needs 8 GPUs (x, y)\n" in printed(*skipped)
    assert "skipped: needs 8 GPUs (x, y)\n" in printed(*skipped, verbosity=-1)
    assert "skipped" not in printed(outcome())


def test_goodput_is_shown_where_it_is_defined():
    assert "Goodput" not in printed(outcome(), verbosity=1)


def printed(*outcomes: Outcome, width: int = 120, verbosity: int = 0, color: bool = False) -> str:
    session = RunFolder(Path("out"), started=STARTED, outcomes={o.test: o for o in outcomes})
    return summary(session, width, color, verbosity)


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("verbosity", [0, 1])
def test_a_table_fits_and_names_everything(width, verbosity):
    text = printed(
        outcome(), outcome(point_id="tp4pp2-c8", limit="<= 1 ms", slowness=2.0), width=width, verbosity=verbosity
    )
    lines = text.splitlines()
    table = [
        line for line in lines if not line.startswith(("smallest changes", "seqs2-short: ", "tp4pp2-c8: ", "limit "))
    ]
    assert max(map(len, table)) <= max(width, 80)
    row = next(line for line in lines if "tp4pp2-c8" in line)
    assert row.split()[-1] == "FAIL"
    assert next(line for line in lines if "seqs2-short " in line).split()[-1] == "PASS"
    assert ("0/100" in row) == (width > 80)
    for header in ("TTFT", "ITL", "tok/s", "verdict"):
        assert header in text
    assert lines[-1] == "report: out/report.json"


def test_statistics_of_every_point_when_asked_for():
    assert "Time to first token (ms)" not in printed(outcome())
    for width in (80, 120):
        text = printed(outcome(), verbosity=1, width=width)
        assert "Time to first token (ms)" in text
        assert "11.00" in text


def test_quiet_tells_trouble_only():
    text = printed(outcome(INVALID, point_id="bad"), outcome(), verbosity=-1)
    assert "p50 ms" not in text
    assert "INVALID bad: run 1: client CPU 99% of a core" in text


def test_modelled_numbers_are_labelled():
    modelled = outcome(result(simulated=True, slug="simulated-embedded"))
    assert "SIMULATED step times" in printed(modelled)
    assert "(SIMULATED step times)" in printed(modelled, verbosity=1)
    assert "SIMULATED" not in printed(outcome(), verbosity=1)


def test_only_what_compares_stands_in_one_table():
    other = result(config=server("{engine: embedded}", locked="{dtype: float16}"))
    text = printed(outcome(), outcome(other, point_id="a-s"))
    assert text.count("SIMULATED") == 0
    assert text.count("verdict") == 2
    assert "(dtype=float16)" in text


def test_an_invalid_point_has_no_verdict():
    row = next(line for line in printed(outcome(INVALID, point_id="bad")).splitlines() if "bad " in line)
    assert row.split()[-1] == "INVALID"


def test_what_was_not_checked_is_measured():
    made = replace(outcome(point_id="a-s"), sla=None, regression=None)
    assert next(line for line in printed(made).splitlines() if "a-s" in line).split()[-1] == "MEASURED"


def test_names_are_no_markup():
    made = outcome(result(slug="[red]h200[/]"), point_id="[bold]a[/bold]")
    text = printed(made, verbosity=1)
    assert text.count("[bold]a[/bold]") >= 2
    assert "[red]h200[/]" in text


def test_colour_only_where_asked_for():
    assert "\x1b[" in printed(outcome(), color=True)
    assert "\x1b[" not in printed(outcome())


def test_notes_and_improvements_are_told():
    text = printed(outcome(slowness=2.0, notes=("driver was 1, is 2",)))
    assert "seqs2-short: since the baseline, driver was 1, is 2" in text
    assert "\nIMPROVED seqs2-short: ITL p50 -50.0 %: 9.667 ms, baseline 19.33 ms (+4)\n" in text
    assert "accept the new level with --llmperf-accept" in text


def test_beside_a_pass_stands_what_would_have_been_caught():
    told = next(line for line in printed(outcome()).splitlines() if line.startswith("smallest changes"))
    assert told.startswith("smallest changes that would have failed in 1 point that PASS: ITL p50 +")
    assert re.search(r"Output token throughput -\d", told)


def test_reruns_and_their_reason_are_told():
    made = replace(outcome(), reruns=("itl_p50: between", "itl_p50: still between"))
    assert "seqs2-short: 2 more runs, the last because of itl_p50: still between" in printed(made, verbosity=1)
    assert "seqs2-short: 2 more runs\n" in printed(made)


def test_a_failure_says_what_where_and_what_next():
    text = failure_text("seqs2-short", outcome(slowness=0.5, notes=("driver was 1, is 2",)).regression)
    lines = text.split("\n  ")
    assert lines[0] == "seqs2-short: ITL p50 +100.0 %, ITL mean +100.0 % and 3 more: FAIL against the baseline"
    assert lines[1].startswith("FAIL ITL p50 +100.0 %: 9.667 ms, baseline 4.833 ms (90 % interval +9")
    assert lines[1].endswith(", tolerated 5 %)")
    assert lines[2:5] == [
        "  baseline |5···········································|",
        "       now |···········································5|",
        "            4.833 ms                            9.667 ms  (x: a run, 2: two runs)",
    ]
    assert lines[-2] == "note: driver was 1, is 2"
    assert "--llmperf-accept" in lines[-1]


def test_an_improvement_is_called_one():
    text = failure_text("seqs2-short", outcome(slowness=2.0).regression)
    assert "\n  IMPROVED ITL p50 -50.0 %: 9.667 ms, baseline 19.33 ms (90 % interval -5" in text


def test_a_failure_says_against_what_and_beside_what():
    at = Against(1, 5, STARTED, "1a2b3c4d5e6f", "9f8e7d6c5b4a")
    busy = [replace(one, host=HostLoad(8, 5.0, 4.0)) for one in outcome().result.runs]
    regression = replace(outcome(slowness=0.5).regression, against=at)
    text = failure_text("a-short", regression, (), replace(result(), runs=tuple(busy)))
    assert (
        "\n  against the baseline of 2026-01-02 03:04 UTC at 1a2b3c4d5: 1 session, 5 runs; the baseline is prov" in text
    )
    assert "(git log --oneline 1a2b3c4d5..9f8e7d6c5)" in text
    assert (
        "\n  this machine: load average 5.0 on 8 cores, other processes took 4.0 cores; it was busy in runs 1" in text
    )
    assert "which makes it a suspect" in text


def test_one_assertion_lists_limits_and_regression():
    made = outcome(slowness=0.5, limit="<= 1 ms")
    lines = failure_text("a-short", made.regression, made.sla).split("\n  ")
    assert lines[0] == (
        "a-short: TTFT p99 is 11 ms; the limit is at most 1 ms: FAIL against the SLA; "
        "ITL p50 +100.0 %, ITL mean +100.0 % and 3 more: FAIL against the baseline"
    )
    assert lines[1].startswith("FAIL ttft_p99: 11 ms, limit <= 1 ms")
    assert lines[2].startswith("FAIL ITL p50 +100.0 %")


def test_change_has_the_sign_of_the_value_in_every_medium():
    made = outcome(slowness=0.5)
    found = {m["quantity"]: m for m in document(made)["points"][0]["regression"]["metrics"]}
    assert found["itl_p50"]["change"] == pytest.approx(1.0)
    assert found["output_token_throughput"]["change"] == pytest.approx(-0.5)
    low, high = found["output_token_throughput"]["change_interval"]
    assert low < -0.5 < high < 0
    properties = dict(outcome_properties(made))
    assert properties["llmperf.change.itl_p50"] == pytest.approx(1.0)
    assert properties["llmperf.change.output_token_throughput"] == pytest.approx(-0.5)
    rate = made.regression.metrics[
        [str(m.series.quantity) for m in made.regression.metrics].index("output_token_throughput")
    ]
    assert describe(rate, None).startswith("Output token throughput -50.0 %: 198 tok/s, baseline 396 tok/s (90 % inter")
    assert standing(made).reasons[0].startswith("ITL p50 +100.0 %: 9.667 ms, baseline 4.833 ms (90 % interval +")


def _named(made: Outcome, name: str) -> Outcome:
    return replace(made, test=f"a.py::t[{name}]", point_id=name, result=replace(made.result, point_id=name))


def _rows(text: str, width: int = 80) -> int:
    return sum(max(1, -(-len(line) // width)) for line in text.splitlines())


@pytest.mark.parametrize(("count", "most"), [(1, 20), (8, 40), (100, 60)])
@pytest.mark.parametrize("slowness", [1.0, 0.5, 0.95, 2.0])
def test_a_summary_is_short_and_ends_with_the_answer(count, most, slowness):
    made = replace(outcome(slowness=slowness), passed=slowness >= 0.95)
    text = printed(*(_named(made, f"tp{n}pp1-long-c16") for n in range(count)), width=80)
    assert _rows(text) <= most
    *_, answer, _ = [line for line in text.splitlines() if line.startswith((f"{count} point", "report: "))]
    verdicts = {1.0: "PASS", 0.5: "FAIL", 0.95: "INCONCLUSIVE", 2.0: "IMPROVED"}
    assert answer == f"{count} point{'s' * (count > 1)}: {count} {verdicts[slowness]}"
    assert text.splitlines()[-1] == "report: out/report.json"


def test_the_gravest_come_first_where_there_are_many():
    bad = replace(outcome(point_id="bad", slowness=0.5), passed=False)
    good = outcome()
    text = printed(*(_named(good, f"p{n}") for n in range(30)), bad, width=80)
    assert text.index("bad ") < text.index("p0 ")
    assert "and 15 more points (-v shows them)" in text
    assert "p29 " in printed(*(_named(good, f"p{n}") for n in range(30)), width=80, verbosity=1)


def test_remarks_on_many_points_are_one():
    made = [outcome(point_id=f"p{n}", notes=("driver was 1, is 2",)) for n in range(8)]
    assert "p0, p1, p2 and 5 more: since the baseline, driver was 1, is 2\n" in printed(*made)


@pytest.mark.parametrize(
    ("tests", "names"),
    [
        (("a.py::t[x-s]", "a.py::t[y-s]"), ("x-s", "y-s")),
        (("a.py::t[x-s-1]", "a.py::t[x-s-2]"), ("x-s-1", "x-s-2")),
        (("a.py::t[x-s]", "a.py::u[x-s]"), ("t[x-s]", "u[x-s]")),
        (("a.py::t[x-s]", "b.py::t[x-s]"), ("a.py::t[x-s]", "b.py::t[x-s]")),
    ],
)
def test_rows_of_several_tests_are_told_apart(tests, names):
    points = [name.partition("[")[2].removesuffix("]")[:3] for name in tests]
    made = [replace(outcome(point_id=point), test=test) for test, point in zip(tests, points, strict=True)]
    assert tuple(one.point_id for one in distinguished(made)) == names


def test_an_interrupted_point_is_told_even_when_quiet():
    made = replace(outcome(), passed=None, error="interrupted")
    assert "seqs2-short: interrupted after 5 runs" in printed(made, verbosity=-1)
    assert "interrupted: --llmperf-resume goes on" in printed(made, verbosity=-1)


def test_points_that_were_not_measured_are_in_no_table():
    lines = printed(Outcome("a", "a", None), outcome(EMPTY)).splitlines()
    assert "TTFT" not in "".join(lines)
    assert lines[-1] == "report: out/report.json"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (12345.6, "12346"), (12.345, "12.35"), (0.5, "0.5000"), (1e-5, "1.00e-05")],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (point(), "concurrency 2, 8 tokens in, 4 out, 3 runs x 20 requests: as long as the server takes"),
        (
            point(request_rate=10, arrival="poisson"),
            "10 req/s poisson, 8 tokens in, 4 out, 3 runs x 20 requests: about 6 s",
        ),
    ],
)
def test_a_load_in_words(load, text):
    assert describe_load(load, 3) == text


def test_how_long_a_search_for_a_capacity_sends_is_not_known():
    asked = {"request_rate": "1:100", "sla": {"ttft_p99": "<= 500 ms"}}
    assert load_seconds(point(duration="20 s", capacity=asked)) is None


@pytest.mark.parametrize(
    ("notes", "told"),
    [
        (
            (("ITL of 3 of 9",), ("ITL of 4 of 9",)),
            ["a, b: since the baseline, ITL of 3 of 9 (the numbers are those of a)"],
        ),
        (
            (("TTFT p50 drifts",), ("TTFT p99 drifts",)),
            ["a: since the baseline, TTFT p50 drifts", "b: since the baseline, TTFT p99 drifts"],
        ),
        (
            (("from m-7 on",), ("from m-72 on",)),
            ["a: since the baseline, from m-7 on", "b: since the baseline, from m-72 on"],
        ),
        (
            (("GPU 0 is hot", "GPU 1 is hot"),) * 2,
            ["a, b: since the baseline, GPU 0 is hot", "a, b: since the baseline, GPU 1 is hot"],
        ),
        (
            (("2 x HTTP 429",), ("3 x HTTP 503",)),
            ["a: since the baseline, 2 x HTTP 429", "b: since the baseline, 3 x HTTP 503"],
        ),
    ],
)
def test_remarks_that_differ_by_numbers_alone_are_one(notes, told):
    held = [outcome(point_id=name, notes=of_point) for name, of_point in zip("ab", notes, strict=True)]
    assert [line for line in remark_lines(held, 0) if "since the baseline" in line] == told


def test_the_window_of_a_run_and_what_lies_outside():
    records = [record(0.0, [40.0], phase="lead-in"), record(0.0, [50.0], phase="lead-in")]
    records += [record(40.0, [90.0]), record(50.0, [120.0]), record(90.0, [200.0])]
    (found,) = document(outcome(result([run(records)])))["points"]
    assert found["runs"][0]["window"] == {
        "start_ns": START_NS + 40 * MS,
        "end_ns": START_NS + 120 * MS,
        "seconds": 0.08,
        "excluded": {"lead_in_s": 0.04, "lead_in_requests": 2, "drain_s": 9.88},
        "latencies_from_drain": 1,
    }
    lines = list(request_lines(run(records), point()))
    assert [line["drain"] for line in lines] == [False, False, False, False, True]


def test_request_lines_hold_rare_facts_where_there_are_any():
    rare = {
        "hidden_tokens",
        "answers",
        "chunk_answers",
        "first_chunk_tokens",
        "usage_doubt",
        "unknown_fields",
        "end_told",
    }
    usual = record(first_chunk_tokens=(1.0,))
    odd = replace(usual, hidden_tokens=3, answers=2, chunk_answers=(0, 1, 0, 1), first_chunk_tokens=(2.0, 1.0))
    odd = replace(odd, usage_doubt="it fell", unknown_fields=("delta.x",), end_told=False)
    plain, full = request_lines(run([usual, odd]), point())
    assert not rare & plain.keys()
    assert {name: full[name] for name in rare} == {name: getattr(odd, name) for name in rare}


def saturated_result():
    late = [record(n * 100.0, [n * 150.0 + 50.0], due_ms=n * 100.0) for n in range(40)]
    return result([run(late)], load=point(request_rate=10))


def test_a_server_that_falls_behind_is_told_and_stays_valid():
    made = outcome(saturated_result(), point_id="a-rate")
    (found,) = document(made)["points"]
    assert (found["saturated"], found["valid"]) == (True, True)
    assert "SATURATED the server is offered more than it takes" in found["remarks"][0]
    assert "a-rate: SATURATED" in printed(made)


@pytest.mark.parametrize(("together", "told"), [(0, False), (1, True)])
def test_first_tokens_that_were_read_with_the_next_are_told(together, told):
    records = [record(n * 40.0, [n * 40.0 + k for k in (10.0, 20.0)]) for n in range(100 - together)]
    records += [record(0.0, [20.0, 20.0, 30.0]) for _ in range(together)]
    (found,) = document(outcome(result([run(records)])))["points"]
    assert any("the first token of 1 of 100 requests" in remark for remark in found["remarks"]) == told


def test_tokens_of_several_prompts_in_one_read_are_nothing_to_tell():
    batch = replace(record(0.0, [20.0, 20.0, 30.0]), answers=2)
    (found,) = document(outcome(result([run([batch] * 4)])))["points"]
    assert found["remarks"] == []


@pytest.mark.parametrize(
    ("arrival", "drawn", "told"), [("gamma", 8.8, True), ("gamma", 9.2, False), ("constant", 8.8, False)]
)
def test_random_arrivals_that_miss_the_rate_are_told(arrival, drawn, told):
    load = point(request_rate=10.0, arrival=arrival)
    made = result([steady_run(client=replace(HEALTH, requested_rate=drawn))], load=load)
    assert any("gamma arrivals of this seed come at 8.8 req/s, not 10: " in remark for remark in made.remarks) == told


@pytest.mark.parametrize(
    ("ignore_eos", "finish_reason", "told"), [(False, "length", 1), (False, "stop", 0), (True, "length", 0)]
)
def test_answers_that_the_context_cut_are_told(ignore_eos, finish_reason, told):
    cut = record(finish_reason=finish_reason, requested_output_tokens=400)
    made = result([run([cut, record()])], load=point(ignore_eos=ignore_eos))
    words = "1 of 2 answers were cut before the length that was asked for (first: 4 of 400 tokens)"
    assert sum(words in remark for remark in made.remarks) == told


def test_what_failed_requests_said_is_told_the_most_frequent_first():
    errors = [None, "HTTP 503: busy", "HTTP 503: busy", "HTTP 500: a", "HTTP 500: b", "HTTP 500: c"]
    made = outcome(result([run([record(error=error) for error in errors])]), point_id="a-rate")
    told = "5 of 6 requests failed: 2 x HTTP 503: busy; 1 x HTTP 500: a; 1 x HTTP 500: b"
    assert document(made)["points"][0]["remarks"] == [told]
    assert f"a-rate: {told}" in printed(made)


def test_what_of_a_file_is_not_sent_is_told_once():
    runs = [replace(steady_run(n), notes=("x.jsonl: not used: delay (4 lines)",)) for n in range(5)]
    (found,) = document(outcome(result(runs)))["points"]
    assert found["remarks"] == ["x.jsonl: not used: delay (4 lines)"]


def test_a_closed_loop_cannot_saturate():
    (found,) = document(outcome())["points"]
    assert (found["saturated"], found["remarks"]) == (None, [])


@pytest.mark.parametrize(
    ("source", "remark"),
    [("chunks", "output tokens were counted in chunks"), ("tokenizer", "counted by the load's tokenizer")],
)
def test_tokens_that_the_server_did_not_count_are_told(source, remark):
    counted = [replace(record(n * 100.0, [n * 100.0 + 50.0]), token_source=source) for n in range(4)]
    assert remark in printed(outcome(result([run(counted)])))
