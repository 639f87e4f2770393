"""`requests: auto` from outside: decided once, told, kept in the baseline and taken from it."""

from __future__ import annotations

import json

POINT = ("-k", "tp1pp1-short")
# Wide enough for any machine: what is decided is not the matter here.
MARGINS = "margins: {itl_p50: 9999 %, itl_mean: 9999 %, ttft_p50: 9999 %, ttft_mean: 9999 %, itl_p99: 9999 %, "
MARGINS += "ttft_p99: 9999 %, output_token_throughput: 9999 %}\n"


def test_a_length_is_decided_once_and_the_candidate_takes_the_baselines(suite):
    suite.edit_plan("concurrency: 2, requests: 10", "concurrency: 2, requests: auto")
    suite.edit_plan("sla:", f"{MARGINS}sla:")
    suite.run(*POINT, "--llmperf-update-baselines").assert_outcomes(passed=1)
    first = suite.points()["tp1pp1-short"]
    assert (first["load"]["length"], first["load"]["requests"]) == ("auto", 100)
    assert any(remark.startswith("100 requests per run: ") for remark in first["remarks"])
    (path,) = suite.baselines()
    assert json.loads(path.read_text())["load"]["requests"] == 100

    # As if it had been decided otherwise then: the runs of now must be as long, or nothing could be compared.
    suite.edit_plan("concurrency: 2, requests: auto", "concurrency: 2, requests: 60")
    suite.run(*POINT, "--llmperf-accept").assert_outcomes(passed=1)
    suite.edit_plan("concurrency: 2, requests: 60", "concurrency: 2, requests: auto")
    compared = suite.run(*POINT)
    compared.assert_outcomes(passed=1)
    compared.stdout.no_fnmatch_line("*is not comparable*")
    second = suite.points()["tp1pp1-short"]
    assert second["load"]["requests"] == 60
    assert "60 requests per run, as in its baseline" in second["remarks"]
    assert second["regression"]["verdict"] in {"PASS", "INCONCLUSIVE", "IMPROVED"}


def test_a_dry_run_says_what_may_come(suite):
    suite.edit_plan("concurrency: 2, requests: 10", "concurrency: 2, requests: auto")
    result = suite.run(*POINT, "--llmperf-dry-run")
    result.stdout.fnmatch_lines(
        ["*2 runs x 100 to 1000 requests, decided before the first run: as long as the server takes"]
    )
