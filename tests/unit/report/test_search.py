"""A search's result as table, JSON, CSV, JUnit properties and HTML; the best configuration as a plan."""

from __future__ import annotations

import csv
import io
import json

import pytest
import yaml
from report_samples import EVIL, STARTED
from search_samples import FACTS, PLAN, searched

from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.report.json.search import search_csv, search_document, search_properties
from pytest_llmperf.report.sections.search import search_summary
from pytest_llmperf.search.candidates import candidates
from pytest_llmperf.search.result import make_result
from pytest_llmperf.search.strategy.contest import Contest


def test_the_order_and_what_is_wrong_with_each():
    result = searched()
    assert [(found.rank, found.name, found.standing) for found in result.ranked[:4]] == [
        (1, "grid.tp4.seqs8.plain", "ok"),
        (2, "grid.tp4.seqs64.plain", "ok"),
        (3, "grid.tp2.seqs8.plain", "ok"),
        (4, "grid.tp1.seqs8.plain", "ok"),
    ]
    assert [tie.name for tie in result.ties] == ["grid.tp4.seqs64.plain"]
    assert [found.standing for found in result.ranked[4:]] == ["broken"] * 2 + ["failed"] * 6 + ["skipped"] * 4
    assert (result.configurations, result.runs, result.brute_runs) == (16, 6, 16)
    (front,) = result.pareto
    assert [point.name for point in front.points if point.on_front] == ["grid.tp4.seqs8.plain"]


def test_the_best_is_a_plan_of_its_own():
    result = searched()
    taken = yaml.safe_load(PLAN) | yaml.safe_load(result.snippet)
    del taken["searches"]
    for text in (yaml.safe_dump(taken), result.plan):
        (config,) = parse_plan(text, "best.yaml").server_configs()
        assert (config.name, config.replicas) == ("grid.tp4.seqs8.plain", 2)
        assert config.args == {
            "dtype": "half",
            "tensor-parallel-size": 4,
            "max-num-seqs": 8,
            "kv-transfer": {"a": 1},
        }
    assert list(yaml.safe_load(result.plan)["loads"]) == ["chat"]
    assert "${HF_TOKEN}" in result.command
    assert "--tensor-parallel-size 4 --max-num-seqs 8" in result.command


def test_weights_are_shown_as_a_ratio_to_the_first_tried():
    result = searched("weighed")
    assert (result.objective, result.unit) == ("1 x ttft_p99 + 2 x output_token_throughput", "x")
    first = next(found for found in result.ranked if found.name == result.tried[0])
    assert first.objective
    assert first.objective.value == pytest.approx(1.0)
    assert result.best
    assert result.best.objective
    # Four times the throughput at a quarter of the latency, of weights 2 and 1.
    assert result.best.objective.value == pytest.approx((4**2 * 4) ** (1 / 3))


def test_json_csv_and_properties_tell_the_same():
    result = searched()
    document = json.loads(json.dumps(search_document(result), allow_nan=False))
    assert document["best"] == "grid.tp4.seqs8.plain"
    assert document["not_distinguishable"] == ["grid.tp4.seqs64.plain"]
    broken = next(row for row in document["ranked"] if row["standing"] == "broken")
    assert broken["checks"][0]["excess"] == pytest.approx(0.125)
    rows = list(csv.DictReader(io.StringIO(search_csv(result))))
    assert [row["server"] for row in rows] == [row["server"] for row in document["ranked"]]
    assert rows[0]["chat.output_token_throughput"] == "400.0"
    properties = dict(search_properties(result))
    assert properties["llmperf.search.best"] == "grid.tp4.seqs8.plain"
    assert properties["llmperf.search.best.objective_tok_s"] == 400.0
    assert all(type(value) in (str, int, float, bool) for value in properties.values())


def test_the_table_says_it_on_a_terminal():
    text = search_summary(searched(), 200, color=False)
    lines = text.splitlines()
    best = next(line for line in lines if line.strip().startswith("1 "))
    assert "2 x 4" in best
    assert any("2 =" in line for line in lines)
    assert "SKIPPED  needs 16 GPUs, found 8" in text
    assert "ttft_p99 450 ms at chat, limit <= 400 ms (12 % beyond)" in text
    assert "best: grid.tp4.seqs8.plain leads, 1 other within noise: output_token_throughput 400 tok/s" in text
    assert "note: a note" in text
    assert search_summary(searched(), 200, color=False, verbosity=-1).count("\n") == 1


def test_a_search_that_was_interrupted_at_once():
    found = candidates(parse_plan(PLAN, "plan.yaml"), "best", 8)
    result = make_result(found, Contest(found.goal, lambda trial, *_: trial, 1), FACTS, interrupted=True, notes=[])
    assert result.answer == "best: nothing was measured"
    text = search_summary(result, 80, color=False)
    assert "nothing was measured" in text
    assert "interrupted: --resume goes on" in text
    json.dumps(search_document(result), allow_nan=False)


def test_the_page_has_answer_table_and_charts_and_no_foreign_code():
    pytest.importorskip("plotly")
    from pytest_llmperf.report.media import html_report

    page = html_report([], STARTED, searches=[searched()])
    body = page[: page.index("<script>")]
    assert "grid.tp4.seqs8.plain leads, 1 other within noise: 400.0 tok/s" in body
    assert body.count("data-figure=") == 2
    assert body.count("The same as a table") == 2
    assert EVIL not in page
    assert "&lt;/script&gt;" in body
