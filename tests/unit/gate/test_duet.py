"""Two servers against each other: what is compared, in which order they run, on which GPUs."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
from samples import failed, point, result, run, server, steady_run

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.errors import MissingRequirement
from pytest_llmperf.gate.judge import Doubt, Judge
from pytest_llmperf.gate.regression import Regression, duet_rules, series_of_two
from pytest_llmperf.gate.rules import DEFAULT, DUET, STRICT
from pytest_llmperf.gate.verdict import judge
from pytest_llmperf.metrics.stats.margins import tolerance
from pytest_llmperf.report.json.properties import outcome_properties
from pytest_llmperf.report.media import report_document
from pytest_llmperf.report.terminal.duet import duet_table
from pytest_llmperf.report.views.verdicts import failure_text
from pytest_llmperf.runner.campaign import Campaign
from pytest_llmperf.runner.outcomes import Outcome, RunFolder
from pytest_llmperf.runner.program import PlannedTest, Program
from pytest_llmperf.runner.tasks import point as point_task
from pytest_llmperf.servers import start
from pytest_llmperf.servers.duet import Duet, configurations
from pytest_llmperf.telemetry.gpu import Gpu

ITL, RATE = Quantity("itl", "p50"), Quantity("output_token_throughput")
MARGINS = {ITL: 0.05, RATE: 0.05}
STEADY = (1.0,) * 5


def named(name, entry="{engine: embedded}", **more):
    return server(entry, **more).model_copy(update={"name": name})


def measured(*slowness, name="new", launches=None):
    runs = [steady_run(index, factor) for index, factor in enumerate(slowness)]
    if launches:
        runs = [replace(one, launch=launch) for one, launch in zip(runs, launches, strict=True)]
    return replace(result(runs, named(name)), point_id=f"{name}-short")


def duet(old, new):
    return replace(measured(*new), point_id="old-vs-new-short", reference=measured(*old, name="old"))


def regression(old, new, margins=MARGINS):
    series, notes = series_of_two(old, new, margins, apart=False)
    return Regression(judge({"a": series}, duet_rules("default"))["a"], notes, ("old", "new"))


def test_a_series_is_one_of_two_servers_in_one_session():
    series, _ = series_of_two(measured(1, 1.1, 1.2), measured(2, 2, 2, launches=(1, 2, 3)), MARGINS, apart=False)
    assert [one.quantity for one in series] == [ITL, RATE]
    for one in series:
        assert one.reference == "duet"
        assert one.prior == replace(tolerance(one.quantity).prior, session_sd=0.0)
        assert [len(runs) for runs in one.baseline] == [3]
        assert [len(runs) for runs in one.candidate] == [3], "launches are part of what runs differ by"
    assert series[0].requests == (20,) * 6


def test_the_sessions_part_of_the_variance_is_gone():
    for metric in regression(measured(*STEADY), measured(*STEADY)).metrics:
        assert metric.estimate is not None
        assert metric.estimate.session_variance == 0


@pytest.mark.parametrize(
    ("slowness", "expected"), [(1.0, "PASS"), (1.02, "PASS"), (1.1, "FAIL"), (3.0, "FAIL"), (0.8, "IMPROVED")]
)
def test_verdicts(slowness, expected):
    assert regression(measured(*STEADY), measured(*[slowness] * 5)).verdict == expected


def test_three_runs_of_the_old_server_are_enough_and_two_are_not():
    assert regression(measured(*[1] * 3), measured(*[1] * 3)).verdict == "PASS"
    short = regression(measured(1, 1), measured(1, 1))
    assert short.verdict == "NO BASELINE"
    assert "the old server holds 2 runs, 3 are needed" in short.metrics[0].reason


def test_rules_are_the_profiles_with_fewer_runs_to_compare_with():
    assert duet_rules("default") == replace(DEFAULT, baseline_runs=DUET.baseline_runs) == DUET
    assert duet_rules("strict").alpha_fail == STRICT.alpha_fail


@pytest.mark.parametrize("slowness", [1.0, 1.05, 3.0, 0.5])
def test_no_text_speaks_of_baselines(slowness):
    text = failure_text("old-vs-new-short", regression(measured(*STEADY), measured(*[slowness] * 5)))
    assert "baseline" not in text
    assert "--llmperf-accept" not in text


def test_a_failure_names_the_old_server():
    text = failure_text("old-vs-new-short", regression(measured(*STEADY), measured(*[3.0] * 5)))
    first, second, *_ = text.split("\n  ")
    assert first == "old-vs-new-short: ITL p50 +200.0 %, Output token throughput -66.7 %: FAIL against old"
    assert second.startswith("FAIL ITL p50 +200.0 %: 29 ms, old 9.667 ms (90 % interval +1")
    assert "\n    old |5" in text
    assert "\n  next: look for what new does that old does not" in text


def test_an_old_server_that_answers_nothing_is_no_pass():
    silent = result([run([failed()], index) for index in range(5)], named("old"))
    found = regression(silent, measured(*STEADY))
    assert found.verdict == "NO BASELINE"
    assert failure_text("p", found).split("\n")[0].endswith("NO BASELINE against old")
    assert regression(measured(*STEADY), silent).verdict == "FAIL"


def test_what_differs_is_told():
    old, new = (
        result(
            [steady_run()], named(name, f"{{engine: embedded, args: {{max-num-seqs: {count}}}}}"), engine_version=name
        )
        for name, count in (("old", 2), ("new", 4))
    )
    assert series_of_two(old, new, MARGINS, apart=False)[1] == (
        "engine_version was 'old', is 'new'",
        "max-num-seqs was 2, is 4",
    )


def test_a_duet_is_judged_without_any_file(tmp_path):
    judge = Judge(tmp_path / "none")
    found = judge.regression("t", duet(STEADY, [3.0] * 5))
    assert (found.verdict, found.duet) == ("FAIL", ("old", "new"))
    assert judge.doubt("t", duet([1] * 3, [3.0] * 3), frozenset({"baseline"})).reasons


def test_a_reference_that_is_not_to_be_trusted_spoils_the_comparison():
    one = duet(STEADY, STEADY)
    spoilt = replace(one, reference=replace(one.reference, invalid_reasons=("it was late",)))
    assert (one.incomparable, spoilt.valid) == ((), True)
    assert spoilt.incomparable == ("old: it was late",)


def test_the_report_has_both_servers():
    outcome = Outcome("t[old-vs-new-short]", "old-vs-new-short", duet([1.0] * 5, [3.0] * 5))
    document = report_document([outcome], RunFolder(output=None).started)
    (told,) = document["points"]
    assert told["duet"]["server"]["name"] == "old"
    assert len(told["duet"]["runs"]) == len(told["runs"]) == 5
    assert told["metrics"]["itl_ms"]["p50"] == pytest.approx(3 * told["duet"]["metrics"]["itl_ms"]["p50"])
    properties = dict(outcome_properties(outcome))
    assert (properties["llmperf.duet"], properties["llmperf.duet.runs"]) == ("old", 5)
    assert properties["llmperf.itl_ms.p50"] == pytest.approx(3 * properties["llmperf.duet.itl_ms.p50"])
    assert (
        "duet"
        not in report_document([replace(outcome, result=measured(1))], RunFolder(output=None).started)["points"][0]
    )


def test_the_tables_change_is_the_metrics_own():
    found = duet([1.0] * 5, [2.0] * 5)
    table = duet_table(found, regression(found.reference, found))
    assert list(table.columns[3].cells) == ["+100.0 %", "-50.0 %"]
    assert next(iter(table.columns[1].cells)) == "9.667"


def test_names_and_configurations():
    old, new = named("old"), named("new")
    assert Duet(old, new).name == "old-vs-new"
    assert hash(Duet(old, new)) == hash(Duet(named("old"), named("new")))
    assert list(configurations([old, Duet(old, new), new])) == [old, new]


def test_servers_of_different_outputs_are_no_duet():
    with pytest.raises(ValueError, match=r"arguments that change the model's output.*dtype is None and 'half'"):
        Duet(named("old"), named("new", "{engine: embedded, args: {dtype: half}, unlocked: [dtype]}"))


GPUS = tuple(Gpu(str(number), "H200") for number in range(4))


@pytest.fixture
def started(monkeypatch):
    """The servers that were started: names and GPUs."""
    asked = []

    @contextlib.contextmanager
    def server(config, _log_dir, own_gpus, *_when):
        asked.append((config.name, [gpu.device for gpu in own_gpus()]))
        yield SimpleNamespace(config=config, reference=None)

    monkeypatch.setattr(start, "_server", server)
    monkeypatch.setattr(start, "held_gpus", lambda gpus, count, _sharing: contextlib.nullcontext(gpus[:count]))
    return asked


def test_the_new_server_takes_other_gpus(started, tmp_path):
    pair = Duet(named("old", "{engine: embedded, gpus: 1}"), named("new", "{engine: embedded, gpus: 3}"))
    with start.start_server(pair, tmp_path, GPUS) as up:
        assert (up.config.name, up.reference.config.name) == ("new", "old")
    assert started == [("old", ["0"]), ("new", ["1", "2", "3"])]


def test_too_few_gpus_for_both(started, tmp_path):
    pair = Duet(named("old", "{engine: embedded, gpus: 2}"), named("new", "{engine: embedded, gpus: 3}"))
    with (
        pytest.raises(MissingRequirement, match=r"old and new up at the same time need 2 \+ 3 GPUs, found 4"),
        start.start_server(pair, tmp_path, GPUS),
    ):
        pass
    assert started == []


def test_gpus_behind_a_url_are_not_this_machines(started, tmp_path):
    far = named("old", "{engine: openai, url: 'http://far:8000', gpus: 8}")
    with start.start_server(Duet(far, named("new", "{engine: embedded, gpus: 4}")), tmp_path, GPUS):
        assert started[1] == ("new", ["0", "1", "2", "3"])


class _Measurement:
    """Measures nothing, and notes in which order."""

    order: list[str]
    steady = False

    def __init__(self, server, _point, _key, on_run, _workers, _length):
        self.server, self._on_run, self._runs = server, on_run, 0

    async def run(self, _progress):
        self.order.append(self.server.name)
        self._on_run(replace(steady_run(self._runs), launch=self.server.launches))
        self._runs += 1


class _Server:
    def __init__(self, name, reference=None):
        self.config, self.name, self.reference = named(name), name, reference
        self.version, self.launches, self.deployment = None, 1, {}
        self.asked = Duet(reference.config, self.config) if reference else self.config

    def bring_up(self):
        """It is up from the beginning."""

    def relaunch(self):
        self.launches += 1


@pytest.fixture
def measure(monkeypatch, tmp_path):
    """Measures a duet without servers: the order of runs, and the result."""
    monkeypatch.setattr(point_task, "Measurement", _Measurement)
    monkeypatch.setattr(_Measurement, "order", [], raising=False)

    def measured_with(runs, more=0, relaunch="auto"):
        new = _Server("new", _Server("old"))
        planned = PlannedTest("t", "old-vs-new-short", "t", new.asked, point(), runs, relaunch=relaunch)
        doubts = iter([Doubt(("it is not decided",))] * more)
        campaign = Campaign(
            Program({"t": planned}), RunFolder(tmp_path / "out"), (), doubt=lambda *_: next(doubts, Doubt())
        )
        return _Measurement.order, asyncio.run(campaign.result(planned, new))

    return measured_with


def test_runs_take_turns_in_both_orders(measure):
    order, found = measure(3, more=2)
    assert order == ["old", "new", "new", "old", "old", "new", "new", "old", "old", "new"]
    assert found.point_id == "old-vs-new-short"
    assert (len(found.runs), len(found.reference.runs)) == (5, 5)


def test_both_are_launched_anew_if_asked_for(measure):
    _, found = measure(3, relaunch="always")
    assert [one.launch for one in found.runs] == [one.launch for one in found.reference.runs] == [1, 2, 3]


def test_requests_are_told_apart_by_file(measure, tmp_path):
    measure(2)
    assert sorted(path.name for path in (tmp_path / "out" / "requests").iterdir()) == ["t.jsonl", "t.old.jsonl"]
