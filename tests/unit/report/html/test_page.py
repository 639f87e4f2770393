"""The HTML report as text: what it says, that nothing in it is code but its own, and that it needs nothing else."""

import base64
import hashlib
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report_samples import EVIL, STARTED, outcomes
from samples import MS, START_NS, failed, record, result, run

from pytest_llmperf.definitions import METRICS, Quantity
from pytest_llmperf.gate.sla import SlaCheck
from pytest_llmperf.metrics.stats.pareto import Front, Tradeoff
from pytest_llmperf.plan.limits import Limit
from pytest_llmperf.records import ServerTimes, Telemetry, Track
from pytest_llmperf.report.html.charts import log_axis, safe
from pytest_llmperf.report.html.distributions import distribution_charts
from pytest_llmperf.report.html.series import series_chart
from pytest_llmperf.report.html.timeline import SHOWN, timeline_chart
from pytest_llmperf.report.html.tradeoffs import front_chart
from pytest_llmperf.report.media import html_report
from pytest_llmperf.report.views.standing import headline, standing
from pytest_llmperf.runner.outcomes import Outcome


class Elements(HTMLParser):
    """Tags with their attributes, and the texts of scripts and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.headings: list[tuple[str, str]] = []
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        if self._open in ("h1", "h2", "h3", "h4"):
            self.headings.append((self._open, data.strip()))

    def handle_endtag(self, tag):
        self._open = None

    def having(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page():
    held, baselines = outcomes()
    return html_report(held, STARTED, (f"a note {EVIL}",), baselines)


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page)


def test_what_failed_comes_first(page):
    text = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    head = text[: text.index("<nav")]
    assert "8 points: " in head
    assert "ITL p50 +" in head
    assert "tp4pp2 is the better configuration at chat-c1, chat-c4, chat-c16" in head
    words = re.findall(r'class="badge \w+">(\w+)<', text[text.index('<section id="overview"') :])
    order = ["FAIL", "ERROR", "SKIPPED", "PASS"]
    assert words[:8] == sorted(words[:8], key=order.index)


def test_every_chart_has_a_table_and_a_name(elements):
    charts = [div for div in elements.having("div") if div.get("class") == "chart"]
    assert len(charts) == 3 + 1 + 6 * 8, "sweep, Pareto front, and of each point six distributions and two timelines"
    assert all(chart["role"] == "img" and chart["aria-labelledby"] for chart in charts)
    assert len(elements.having("figure")) == len(charts)
    assert len(list(elements.having("summary"))) >= len(charts)
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_baseline_is_drawn_beside_what_was_compared(elements):
    figures = [json.loads(text) for kind, text in elements.scripts if kind.get("type") == "application/json"]
    names = [[trace["name"] for trace in figure["data"]] for figure in figures]
    assert names.count(["this session", "baseline"]) == 6 * 4, "histogram and curve of TTFT and E2E"
    assert names.count(["this session"]) == 6 * 2, "the stored histograms had no ITL"


def test_no_text_becomes_markup(page, elements):
    assert "<img" not in page
    assert EVIL not in page
    assert [kind for kind, _ in elements.scripts if kind.get("type") != "application/json"] == [{}, {}]
    assert not any(name.startswith("on") for _, attributes in elements.tags for name in attributes)
    assert safe("<b>&") == "&lt;b&gt;&amp;"


def test_only_its_own_scripts_may_run_and_nothing_may_be_fetched(elements):
    (policy,) = [meta["content"] for meta in elements.having("meta") if meta.get("http-equiv")]
    code = [text for kind, text in elements.scripts if not kind.get("type")]
    for script in code:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    for _, attributes in elements.tags:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith("#")


def test_headings_never_skip_a_level(elements):
    levels = [int(tag[1]) for tag, _ in elements.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_metric_is_defined(page):
    assert all(metric.definition.split("<")[0].split("'")[0][:30] in page for metric in METRICS.values())


def test_it_can_be_read_on_a_phone_and_in_the_dark(page, elements):
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in elements.having("meta")
    assert "prefers-color-scheme: dark" in page


def test_a_session_that_measured_nothing():
    text = html_report([Outcome("t", "p", None, error="skipped: no GPU")], STARTED)
    assert "1 point: 1 SKIPPED" in text
    assert "Nothing was measured." in text


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (Outcome("t", "p", None, error="Failed: died", passed=False), "ERROR"),
        (Outcome("t", "p", result(), error="interrupted"), "INTERRUPTED"),
        (Outcome("t", "p", result(), passed=True), "MEASURED"),
        (Outcome("t", "p", result(), error="AssertionError: my own", passed=False), "FAIL"),
        (Outcome("t", "p", replace(result(), invalid_reasons=("slow",)), passed=False), "INVALID"),
    ],
)
def test_every_end_has_its_word(outcome, word):
    assert standing(outcome).word == word
    assert headline([standing(outcome)]).word == word


def test_the_reason_of_a_test_that_fails_on_its_own():
    found = standing(Outcome("t", "p", result(), error="AssertionError: my own\n  more", passed=False))
    assert found.reasons == ("my own",)


def test_a_capacity_without_an_answer_is_no_failed_request():
    check = SlaCheck(Limit(metric="capacity", stat=None, op=">=", value=20.0), None, 0, "FAIL")
    found = standing(Outcome("t", "p", result(), sla=(check,), passed=False))
    assert found.reasons == ("Capacity has no value: no level of the search holds (limit 20 req/s)",)


def test_a_timeline_shows_requests_of_the_whole_run_and_what_failed():
    records = [record(n * 10.0, [n * 10.0 + 5, n * 10.0 + 9], index=n + 1) for n in range(SHOWN + 5)]
    chart = timeline_chart(run([failed(5.0), *records]))
    assert chart is not None
    assert len(chart.rows) == (SHOWN + 6) / 2 + 1
    assert f"{len(chart.rows)} of {SHOWN + 6} requests, every 2nd one and what failed" in chart.says
    assert [trace["name"] for trace in chart.figure["data"]] == ["to first token", "decode", "failed"]


def test_an_open_loops_timeline_begins_when_requests_were_due():
    chart = timeline_chart(run([record(5.0, [9.0, 10.0], due_ms=0.0)]))
    assert chart is not None
    (row,) = chart.rows
    assert row[:5] == (1, 0.0, 5.0, 4.0, 1.0)


def test_what_was_sampled_stands_under_the_requests_on_their_axis():
    records = [record(n * 500.0, [n * 500.0 + 5, n * 500.0 + 400]) for n in range(4)]
    at = tuple(START_NS + n * 500_000_000 for n in range(4))
    tracks = (
        Track("a", at, (("requests_running", (0.0, 1.0, None, 1.0)), ("kv_cache_usage", (0.0, 0.5, 0.25, 0.5)))),
        Track("GPU 0", at, (("gpu_utilization", (0.1, 0.9, 0.9, 0.9)),)),
        Track("GPU 1", at, (("gpu_utilization", (0.1, 0.8, 0.8, 0.8)),)),
        Track("none", at, (("preemptions", (0.0, 0.0, 0.0, 0.0)),)),
    )
    found = replace(run(records), telemetry=Telemetry(0.5, tracks, ("GPU 2: NVML: <gone>",)))
    bars, below = timeline_chart(found), series_chart(found)
    assert bars.figure["layout"]["xaxis"]["range"] == below.figure["layout"]["xaxis"]["range"] == [0, 1.9]
    assert bars.figure["layout"]["margin"] == below.figure["layout"]["margin"]
    lines = {trace["name"]: trace for trace in below.figure["data"]}
    names = ["running", "output tok/s", "KV cache", "GPU utilisation (GPU 0)", "GPU utilisation (GPU 1)"]
    assert list(lines) == ["in flight (client)", *names], "no preemptions, no chart of them"
    assert lines["KV cache"]["y"] == [0.0, 50.0, 25.0, 50.0]
    assert lines["running"]["y"][2] is None
    assert [note["text"] for note in below.figure["layout"]["annotations"]] == [
        "requests",
        "output tok/s (client)",
        "KV cache in %",
        "GPU utilisation in %",
    ]
    assert below.headers == ("seconds", *lines)
    assert below.rows[-1][0] == 1.9
    assert below.rows[-1][-1] == 80.0
    assert "GPU 2: NVML: <gone>." in below.says


def test_a_duets_distributions_lie_over_those_of_the_old_server():
    old, new = (result([run([record(n * 10.0) for n in range(20)])]) for _ in range(2))
    named = replace(old, server=old.server.model_copy(update={"name": "old<b>"}))
    text = html_report([Outcome("t", "p", replace(new, reference=named), passed=True)], STARTED)
    figures = [json.loads(data) for kind, data in Elements(text).scripts if kind.get("type") == "application/json"]
    names = [[trace["name"] for trace in figure["data"]] for figure in figures]
    assert names.count([new.server.name, "old&lt;b&gt;"]) == 6, "histogram and curve of three latencies"
    assert "beside those of old&lt;b&gt;: 20" in text


def test_runs_without_tokens_have_no_load_chart():
    assert series_chart(run([failed()])) is None
    assert timeline_chart(run([failed(None)])) is None


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ([16.0, 130.0], ["10", "20", "50", "100", "200", "500"]),
        ([0.4, 3.0], ["0.1", "0.2", "0.5", "1", "2", "5"]),
        ([20.0], ["20"]),
    ],
)
def test_a_logarithmic_axis_has_whole_numbers_at_its_marks(values, marks):
    assert log_axis(values)["ticktext"] == marks


@pytest.mark.parametrize("values", [[], [0.0], [90.0, 110.0]])
def test_an_axis_of_less_than_a_decade_is_left_to_plotly(values):
    assert log_axis(values) == {"type": "log"}


def test_names_on_a_pareto_front_are_not_written_over_each_other():
    at = {"a": (100.0, 10.0), "b": (600.0, 50.0), "c": (604.0, 51.0), "d": (606.0, 52.0)}
    points = tuple(Tradeoff(name, *place, ok=None, on_front=True) for name, place in at.items())
    (trace,) = front_chart(Front("chat", Quantity("ttft", "p99"), points), "point").figure["data"]
    assert trace["text"] == ["a", "", "", "d"]
    assert trace["customdata"] == ["a", "b", "c", "d"]


def test_a_percentile_curve_ends_where_the_sample_does():
    _, curve = distribution_charts({"ttft": [float(n) for n in range(1, 101)]}, {})
    shown = dict(curve.rows)
    assert (shown["p50"], shown["p99.9"]) == ("50.5", "-")


def test_the_wait_in_a_servers_queue_is_no_prefill():
    told = replace(record(0.0, [50.0, 60.0]), server_ns=ServerTimes(1_000, 1_000 + 30 * MS, 50 * MS, 60 * MS))
    chart = timeline_chart(run([told]))
    lengths = {trace["name"]: trace["x"] for trace in chart.figure["data"]}
    assert lengths == {"server queue": [0.03], "prefill": [0.02], "decode": [0.01]}
    untold = timeline_chart(run([record(0.0, [50.0, 60.0])]))
    assert [trace["name"] for trace in untold.figure["data"]] == ["to first token", "decode"]
    assert not any("prefill" in header for header in untold.headers)
