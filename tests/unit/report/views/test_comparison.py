"""Configurations side by side, sweeps with their knee, and the Pareto front."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

import pytest
from samples import HEALTH, point, result, server, steady_run

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.metrics.stats.estimate import interval_of
from pytest_llmperf.metrics.stats.margins import Prior
from pytest_llmperf.plan.limits import Limit
from pytest_llmperf.report.media import report_document, summary
from pytest_llmperf.report.views.comparison import NO_WINNER, comparisons, load_family, overall
from pytest_llmperf.report.views.sweeps import fronts, sweep_groups
from pytest_llmperf.runner.outcomes import Outcome, RunFolder

TTFT, RATE = Quantity("ttft", "p50"), Quantity("output_token_throughput")


def measured(name, slowness=1.0, load=None, runs=3, **client):
    config = server("{engine: embedded}").model_copy(update={"name": name})
    health = replace(HEALTH, **client)
    found = result([steady_run(n, slowness, 40, health) for n in range(runs)], config, load or point(requests=40))
    return f"a.py::t[{found.point_id}]", found


def rows(*pairs):
    (found,) = comparisons(pairs)
    return {row.quantity: row for row in found.rows}


def test_the_faster_configuration_is_the_best_one():
    (found,) = comparisons([measured("a"), measured("b", 0.5)])
    best = {str(row.quantity): row.best for row in found.rows}
    assert best["ttft_p50"] == best["output_token_throughput"] == 1
    assert found.answer.startswith("short: b is better in ")


def test_noise_is_no_win():
    row = rows(measured("a"), measured("b", 1.02))[TTFT]
    assert (row.best, row.why) == (None, NO_WINNER)


def test_of_three_the_best_must_be_apart_from_both():
    assert rows(measured("a"), measured("b", 0.5), measured("c", 0.51))[TTFT].best is None
    assert rows(measured("a"), measured("b", 0.4), measured("c", 0.7))[TTFT].best == 1


def test_an_invalid_configuration_is_shown_and_never_the_best():
    (found,) = comparisons([measured("a"), measured("b", 0.5, cpu_share=0.99)])
    assert found.invalid == ("b",)
    assert all(row.best is None for row in found.rows)


def test_a_p99_of_few_requests_has_no_winner():
    row = rows(measured("a"), measured("b", 0.5))[Quantity("ttft", "p99")]
    assert row.best is None
    assert "p99 needs" in row.why


def test_an_open_loops_throughput_is_nobodys_merit():
    load = point(request_rate=10.0)
    row = rows(measured("a", load=load), measured("b", 0.5, load=load)).get(RATE)
    assert row is None or (row.best is None and "set by the load" in row.why)


def test_what_does_not_compare_is_not_compared():
    one, (test, other) = measured("a"), measured("b")
    elsewhere = replace(other, environment=replace(other.environment, slug="elsewhere"))
    assert comparisons([one]) == ()
    assert comparisons([one, (test, elsewhere)]) == ()
    assert comparisons([one, measured("b", load=point(name="long", requests=40))]) == ()


def test_a_level_lies_in_its_interval_which_narrows_with_runs():
    prior = Prior(0.05, 0.0)
    few, many = interval_of([[10.0, 11.0]], prior), interval_of([[10.0, 11.0] * 8], prior)
    assert few.low < few.value < few.high
    assert many.high / many.low < few.high / few.low
    with pytest.raises(ValueError, match="no logarithm"):
        interval_of([[0.0]], prior)


def sweep(name, slowness, levels=(1, 2, 4)):
    # Concurrency only names the level here; `slowness` per level is what the server made of it.
    loads = (point(name=f"s-c{count}", concurrency=count, requests=40) for count in levels)
    return [measured(name, factor, load) for load, factor in zip(loads, slowness, strict=True)]


def test_a_sweep_has_its_levels_in_order_and_a_knee():
    (group,) = sweep_groups([*reversed(sweep("a", (1.0, 0.5, 0.8))), measured("other")])
    assert (group.load, group.axis) == ("s", "concurrency")
    (found,) = group.sweeps
    assert [level.label for level in found.levels] == ["1", "2", "4"]
    assert found.knee == 1


def test_two_levels_have_no_knee_and_one_is_no_sweep():
    (group,) = sweep_groups(sweep("a", (1.0, 2.0), (1, 2)))
    assert group.sweeps[0].knee is None
    assert sweep_groups(sweep("a", (1.0,), (1,))) == ()


def limited_sweep(limit, slowness):
    sla = (Limit(metric="e2e", stat="p50", op="<=", value=limit),)
    return [(test, replace(r, load=r.load.model_copy(update={"sla": sla}))) for test, r in sweep("a", slowness)]


@pytest.mark.parametrize(
    ("slowness", "says"),
    [
        ((1.0, 1.1, 3.0), "s: a meets its limits up to concurrency 2: * tok/s"),
        (
            (1.0, 3.0, 1.1),
            "s: a meets its limits at some levels, the highest of them concurrency 4, the highest measured: *",
        ),
        ((3.0, 3.0, 3.0), "s: a meets its limits at no concurrency"),
    ],
)
def test_a_sweep_says_how_far_its_limits_hold(slowness, says):
    fast = sweep("a", (1.0,), (1,))[0][1].metrics.value(Quantity("e2e", "p50"))
    (group,) = sweep_groups(limited_sweep(2 * fast, slowness))
    (answer,) = group.answers
    assert fnmatch(answer, says)


def test_a_sweep_without_limits_says_where_throughput_is_highest():
    (group,) = sweep_groups(sweep("a", (1.0, 0.5, 0.8)))
    (answer,) = group.answers
    assert fnmatch(answer, "s: a has most output at concurrency 2: * tok/s")


def test_the_family_of_a_load_keeps_other_axes():
    names = {"rate-20rps": "rate", "s-c8-in100": "s-in100", "c3": "c3", "x-2.5rps": "x"}
    for name, family in names.items():
        assert load_family(measured("a", load=point(name=name, requests=40))[1]) == family


def test_the_front_is_what_nothing_beats_in_both():
    (front,) = fronts(sweep("a", (1.0, 0.5, 0.8)))
    assert [p.name for p in front.points if p.on_front] == ["a-s-c2"]


def session(*pairs):
    held = RunFolder(Path("out"), started=datetime(2026, 1, 2, tzinfo=UTC))
    held.outcomes = {test: Outcome(test, found.point_id, found, passed=True) for test, found in pairs}
    return held


def test_the_terminal_shows_the_table_and_the_answer():
    text = summary(session(measured("a"), measured("[b]", 0.5)), 120, False, 1)
    assert "configurations at short" in text
    assert "[b] is better in" in text
    assert "–" in text


def test_who_wins_one_metric_and_is_beaten_in_others_does_not_lead():
    narrow = [measured(name, slow, point(requests=40)) for name, slow in (("a", 1.0), ("b", 1.0))]
    (found,) = comparisons(narrow)
    first, *others = (row for row in found.rows if row.leaders)
    won = replace(first, best=0, leaders=(0,))
    lost = [replace(row, best=1, leaders=(1,)) for row in others[:1]]
    traded = replace(found, rows=(won, *lost))
    assert traded.leader is None
    assert overall([traded]) == (traded.answer,)
    assert traded.answer == "short: no configuration is best at everything; best ttft_p50: a; best itl_p50: b"
    tied = replace(found, rows=(won, replace(lost[0], best=None, leaders=(0, 1))))
    assert tied.leader == "a"


def test_values_that_none_beats_are_starred_in_plain_text_too():
    text = summary(session(measured("a"), measured("b", 0.5)), 120, False, 1).partition("configurations at short")[2]
    (row,) = [line for line in text.splitlines() if line.strip().startswith("ttft_p50")]
    assert row.split()[3] == "*"
    assert row.split()[-1] == "b"


def test_many_configurations_stand_below_each_other():
    names = [f"grid.seqs{number}" for number in range(1, 13)]
    slowness = [1.0 if number in (3, 7) else 2.0 for number in range(12)]
    pairs = [measured(name, slow) for name, slow in zip(names, slowness, strict=True)]
    (found,) = comparisons(pairs)
    assert found.unbeaten == ("grid.seqs4", "grid.seqs8")
    assert found.answer.endswith("; none is better than grid.seqs4, grid.seqs8 in any")
    for width in (80, 120):
        text = summary(session(*pairs), width, False, 1).partition("configurations at short")[2]
        rows = [line for line in text.splitlines() if line.strip().startswith("grid.")][: len(names)]
        assert [row.split()[0] for row in rows] == names
        assert max(map(len, rows)) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_five_configurations_fit_a_terminal_without_a_broken_word(width):
    names = {"plain": 1.0, "instances2": 0.9, "batch2": 0.8, "batch8": 0.4, "delay": 1.3}
    text = summary(session(*(measured(name, slowness) for name, slowness in names.items())), width, False, 1)
    part = text[text.index("configurations at") : text.index("no best in")]
    assert all(len(line.rstrip()) <= width for line in part.splitlines())
    words = set(part.split())
    assert set(names) <= words
    assert not {"needs", "requests", "overlap"} & words, "reasons stand below the table"
    assert "no best in ttft_p99, itl_p99: p99 needs 200 requests per run, there were 40" in text


def test_the_report_has_the_comparison():
    outcomes = list(session(measured("a"), measured("b", 0.5)).outcomes.values())
    report = json.loads(json.dumps(report_document(outcomes, datetime.now(UTC)), allow_nan=False))
    (found,) = report["comparisons"]
    row = next(row for row in found["rows"] if row["quantity"] == "ttft_p50")
    assert row["best"] == "b"
    assert row["values"]["b"]["low"] < row["values"]["b"]["value"]


def test_a_parameter_of_the_tests_own_makes_no_comparison():
    """Each value of it is another experiment: a server is never compared with itself, nor two that differ in it."""
    pairs = [(f"a.py::t[{name}-short-{how}]", measured(name)[1]) for how in "xy" for name in "ab"]
    found = comparisons(pairs)
    assert [one.load for one in found] == ["short (t, x)", "short (t, y)"]
    assert all(one.configurations == ("a", "b") for one in found)
    assert comparisons([pairs[0], pairs[2]]) == ()
    assert not comparisons([("t[a-short]", pairs[0][1]), ("t[a-short]", pairs[0][1])])
