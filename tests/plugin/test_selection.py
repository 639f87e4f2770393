"""Which tests there are: one per server and load, with stable ids."""

from __future__ import annotations

import pytest


def _ids(result: pytest.RunResult) -> list[str]:
    return [line.partition("[")[2].rstrip("]") for line in result.outlines if "::test_serving[" in line]


def test_one_test_per_server_and_load_in_plan_order(suite):
    result = suite.run("--collect-only", "-q")
    assert _ids(result) == [
        "tp1pp1-short",
        "tp1pp1-rate-100rps",
        "tp1pp1-rate-200rps",
        "tp4pp2-short",
        "tp4pp2-rate-100rps",
        "tp4pp2-rate-200rps",
    ]


def test_a_configuration_is_selected_by_its_name(suite):
    result = suite.run("--collect-only", "-q", "-k", "tp4pp2 and short")
    assert _ids(result) == ["tp4pp2-short"]


def test_marker_narrows_servers_and_loads(suite):
    suite.write(test=_marked('plan="plan.yaml", servers=["tp4pp2"], loads=["rate"]'))
    assert _ids(suite.run("--collect-only", "-q")) == ["tp4pp2-rate-100rps", "tp4pp2-rate-200rps"]


SWEPT = "{engine: embedded, args: {step: modelled, max-num-seqs: {sweep: [2, 4]}}}"


@pytest.mark.parametrize(
    ("servers", "expected"),
    [(["grid"], ["grid.seqs2", "grid.seqs4"]), (["grid.seqs4", "tp4pp2"], ["tp4pp2", "grid.seqs4"])],
)
def test_marker_names_an_entry_or_one_of_its_configurations(suite, servers, expected):
    suite.edit_plan("loads:\n", f"  grid: {SWEPT}\nloads:\n")
    suite.write(test=_marked(f'plan="plan.yaml", servers={servers}, loads=["short"]'))
    assert _ids(suite.run("--collect-only", "-q")) == [f"{name}-short" for name in expected]


def test_a_duet_is_of_single_configurations(suite):
    suite.edit_plan("loads:\n", f"  grid: {SWEPT}\nloads:\n")
    suite.write(test=_marked('plan="plan.yaml", duet={"a": "grid.seqs2", "b": "grid"}'))
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'grid' stands for 2 configurations; name one of them: grid.seqs2, grid.seqs4"])
    suite.write(test=_marked('plan="plan.yaml", duet={"a": "grid.seqs2", "b": "grid.seqs4"}, loads=["short"]'))
    assert _ids(suite.run("--collect-only", "-q")) == ["grid.seqs2-vs-grid.seqs4-short"]


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('plan="plan.yaml", server=["tp1pp1"]', "*has no 'server'; did you mean 'servers'?*"),
        ('plan="plan.yaml", servers=["tp1pp"]', "*no server 'tp1pp'; did you mean 'tp1pp1'?*"),
        ('plan="plan.yaml", loads=["shot"]', "*no load 'shot'; did you mean 'short'?*"),
        ('plan="plan.yaml", runs=0', "*runs is a whole number from 1 to 10,000, given 0*"),
        ('plan="plan.yaml", runs=True', "*runs is a whole number from 1 to 10,000, given True*"),
        ('plan="plan.yaml", runs=10**9', "*runs is a whole number from 1 to 10,000, given 1000000000*"),
        ('plan="plan.yaml", servers=[]', "*marker's servers is a list of at least one name, given [[][]]*"),
        ('plan="plan.yaml", servers="tp1pp1"', "*marker's servers is a list of at least one name, given 'tp1pp1'*"),
        ('plan="plan.yaml", servers=3', "*marker's servers is a list of at least one name, given 3*"),
        ('plan="plan.yaml", loads=()', "*marker's loads is a list of at least one name, given ()*"),
        ('plan="plan.yaml", loads=[1]', "*marker's loads is a list of at least one name, given [[]1[]]*"),
        ('plan="nowhere.yaml"', "*nowhere.yaml: cannot read the plan*"),
        ('"plan.yaml"', "*takes keywords only*"),
        ("", "*needs plan=*"),
    ],
)
def test_marker_mistakes_are_usage_errors(suite, marker, message):
    suite.write(test=_marked(marker))
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_plan_mistakes_are_usage_errors_with_file_and_line(suite):
    suite.edit_plan("concurrency: 2", "concurency: 2")
    suite.edit_plan('error_rate: "<= 0"', 'error_rte: "<= 0"')
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "*plan.yaml:8: loads.short.concurency: unknown key 'concurency'; did you mean 'concurrency'?",
            "*plan.yaml:10: sla.error_rte: unknown metric 'error_rte'; did you mean 'error_rate'?",
        ]
    )


def test_fixtures_without_the_marker_say_what_is_missing(suite):
    suite.write(test="def test_a(llm_server): pass")
    suite.run().stdout.fnmatch_lines(["*needs @pytest.mark.llmperf(plan=*"])


def test_strict_markers_know_the_marker(suite):
    assert suite.run("--strict-markers", "--collect-only", "-q", "-m", "llmperf").ret == 0
    suite.run("--markers").stdout.fnmatch_lines(["@pytest.mark.llmperf(plan, servers=None*"])


def test_a_dry_run_is_not_shared_out(suite):
    pytest.importorskip("xdist")
    result = suite.run_apart("-n2", "--llmperf-dry-run")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--llmperf-dry-run tells of this process's tests, *: add -n0"])


def test_a_dry_run_needs_no_option_where_nothing_is_shared_out(suite):
    pytest.importorskip("xdist")
    assert suite.run_apart("--dist=loadfile", "--llmperf-dry-run").ret == 0


def test_every_option_has_help_and_an_ini_twin(suite):
    text = suite.run("--help").stdout.str()
    updates = ("update-baselines", "update-new", "allow-ci-update")
    gate = ("gate", "inconclusive", "relaunch", "budget", "accept", "no-interleave", "gpu-wait", "gpu-busy")
    for name in (*updates, *gate, "json", "output", "dry-run", "strict", "runs", "baselines"):
        assert f"--llmperf-{name}" in text
        assert f"llmperf_{name.replace('-', '_')}" in text


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", "²"])
def test_runs_must_be_a_whole_number(suite, given):
    result = suite.run(f"--llmperf-runs={given}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--llmperf-runs*{given!r} is not a whole number of at least 1"])


def _marked(arguments: str) -> str:
    return f"""
import pytest

@pytest.mark.llmperf({arguments})
def test_serving(llm_server, load_point):
    pass
"""
