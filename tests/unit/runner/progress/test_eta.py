"""What is left of a session: learnt from what was measured, and nothing invented."""

from itertools import count

import pytest

from pytest_llmperf.runner.progress.eta import CurrentRun, Eta, PointWork, TimeLeft
from pytest_llmperf.runner.progress.live import Live, Moment, duration, live_text, remaining


def eta(*works, started=("a",)):
    held = Eta()
    for work in works:
        held.plan(work)
    for name in started:
        held.started("embedded", name, 1.0)
    return held


def work(test, load="s", server="a", runs=2, run_s=None, **more):
    return PointWork(test, server, "embedded", load, runs, run_s, **more)


def moment(**facts):
    given = {"test": "t", "name": "a-s", "run": 1, "runs": 3, "extra": False, "done": 45, "total": 96, "failed": 0}
    return Moment(**{**given, "elapsed_s": 0.0, "share": 0.0, **facts})


def test_nothing_is_known_before_the_first_run():
    held = eta(work("t"))
    assert held.left() == TimeLeft(0.0, False)
    assert remaining(held.left()) == ""


def test_a_load_that_takes_its_time_is_known_beforehand():
    assert eta(work("t", run_s=30.0)).left() == TimeLeft(60.0, True)


def test_runs_that_were_made_tell_of_those_to_come():
    held = eta(work("t"), work("u", load="l"))
    held.ran("t", 10.0)
    assert held.left() == TimeLeft(10.0, False), "of the other load nothing is known"
    held.ran("u", 4.0)
    assert held.left() == TimeLeft(14.0, True)
    assert (held.runs, held.points) == ((2, 4), (0, 2))


def test_another_servers_run_of_the_same_load_tells_too_and_its_start_is_counted():
    held = eta(work("t"), work("u", server="b"))
    held.ran("t", 10.0)
    assert held.left() == TimeLeft(10.0 + 2 * 10.0 + 1.0, True)


def test_the_start_of_another_engine_is_not_guessed():
    held = Eta()
    held.plan(work("t", run_s=3.0))
    held.started("vllm", "v", 90.0)
    assert held.left() == TimeLeft(6.0, False)


def test_a_run_tells_its_own_pace():
    held = eta(work("t"))
    assert held.left(CurrentRun("t", 2.0, 0.05)) == TimeLeft(0.0, False), "too early to tell"
    assert held.left(CurrentRun("t", 2.0, 0.25)) == TimeLeft(6.0 + 8.0, True)


def test_a_run_whose_pace_cannot_be_told_takes_what_others_took():
    held = eta(work("t", run_s=30.0))
    assert held.left(CurrentRun("t", 10.0, 0.0)) == TimeLeft(20.0 + 30.0, True)


def test_reruns_are_counted_as_soon_as_they_are_known():
    held = eta(work("t"))
    held.ran("t", 10.0)
    held.ran("t", 10.0)
    assert (held.left(), held.points) == (TimeLeft(0, True), (1, 1))
    held.more("t")
    assert (held.left(), held.runs, held.points) == (TimeLeft(10.0, True), (2, 3), (0, 1))


def test_what_is_settled_is_no_longer_to_come():
    held = eta(work("t", run_s=30.0), work("u", server="b", run_s=30.0))
    held.settle("u")
    assert (held.left(), held.points, held.runs) == (TimeLeft(60.0, True), (1, 2), (0, 2))


def test_a_load_that_ends_when_it_is_stable_takes_no_certain_time():
    assert eta(work("t", run_s=30.0, open_ended=True)).left() == TimeLeft(60.0, False)


def test_the_line_is_as_wide_as_the_terminal_at_most():
    held = eta(*(work(f"t{n}", run_s=100.0) for n in range(12)))
    told = moment(name="seqs8-short", test="t0")
    assert live_text(told, held, 120) == (
        "llmperf 0/12 points, 0/24 runs: seqs8-short run 1/3, 45/96 requests, about 40 min left"
    )
    assert live_text(told, held, 80) == ("llmperf 0/12 points, seqs8-short run 1/3, 45/96 requests, about 40 min left")
    assert live_text(told, held, 60) == "llmperf seqs8-sh… run 1/3, 45/96 requests, about 40 min left"
    for width in range(20, 130):
        assert len(live_text(moment(name="x" * 70, failed=3, extra=True), held, width)) <= width


def test_a_load_that_goes_by_time_has_no_total():
    assert live_text(moment(total=None), Eta(), 80) == "llmperf a-s run 1/3, 45 requests"


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.12, "4.1 s"), (35.4, "35 s"), (100, "2 min"), (3600, "60 min"), (6000, "1 h 40 min")]
)
def test_durations_are_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_a_small_lower_bound_is_not_worth_saying():
    assert remaining(TimeLeft(3.0, False)) == ""
    assert remaining(TimeLeft(3.0, True)) == "about 3.0 s left"


@pytest.mark.parametrize(("every_run", "lines"), [(False, 1), (True, 3)])
def test_plain_lines_are_one_per_point_or_one_per_run(every_run, lines):
    said = []
    live = Live(say=said.append, every_run=every_run, eta=eta(work("t"), work("u")))
    for _, seconds in zip(count(), (2.0, 2.0, 2.0), strict=False):
        live.ran("t", "a-s", 2, seconds)
    assert len(said) == lines
    assert "1/2 points" in said[-1]


def test_nothing_is_said_where_there_is_nowhere_to_say_it():
    live = Live(eta=eta(work("t")))
    live.show_run(moment())
    live.starting("a")
    live.clear()
    live.ran("t", "a-s", 2, 1.0)
    assert live.eta.runs == (1, 2)
