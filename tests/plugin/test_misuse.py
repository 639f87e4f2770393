"""What a person does wrong in a test: told in one line, by that test alone."""

from __future__ import annotations

import pytest

HEAD = "import pytest\n\npytestmark = pytest.mark.llmperf(plan='plan.yaml', servers=['a'], loads=['s'])\n"
PLAN = """
model: embedded
runs: 1
servers:
  a: {engine: embedded, args: {step: modelled, decode-ms-per-step: 1}}
loads:
  s: {input_tokens: 8, output_tokens: 2, concurrency: 1, requests: 4, warmup_requests: 1}
"""
ANOTHER = "\n\ndef test_another(llm_server, load_driver, load_point):\n    load_driver.run(llm_server, load_point)\n"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("load_driver.run(load_point, llm_server)", "*the two arguments are swapped*"),
        ("load_driver.run('http://x', load_point)", "*llm_server is needed, given 'http://x'*"),
        ("load_driver.run(llm_server, {'concurrency': 1})", "*load_point is needed, given {'concurrency': 1}*"),
        ("sla.check(load_driver.arun(llm_server, load_point))", "*sla.check got a coroutine: write `result = await*"),
        ("baseline.check(None)", "*baseline.check takes what load_driver.run returned, given None*"),
    ],
    ids=["swapped", "no-server", "no-point", "no-await", "no-result"],
)
def test_wrong_arguments_fail_their_test_alone(suite, body, told):
    test = f"def test_x(llm_server, load_driver, load_point, sla, baseline):\n    {body}\n"
    suite.write(plan=PLAN, test=f"{HEAD}\n\n{test}{ANOTHER}")
    result = suite.run()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([told])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_a_test_case_and_a_test_without_fixtures_are_told(suite):
    case = "import unittest\n\n\nclass TestServing(unittest.TestCase):\n    def test_it(self):\n        pass\n"
    suite.write(plan=PLAN, test=f"{HEAD}{case}\n\ndef test_nothing():\n    pass\n{ANOTHER}")
    result = suite.run()
    result.assert_outcomes(errors=2, passed=1)
    result.stdout.fnmatch_lines(["*a unittest.TestCase takes no fixtures, so the llmperf marker does nothing here*"])
    result.stdout.fnmatch_lines(["*the llmperf marker measures nothing without its fixtures*"])


def test_a_gate_that_is_never_used_is_a_warning(suite):
    test = "def test_x(llm_server, load_driver, load_point, sla):\n    load_driver.run(llm_server, load_point)\n"
    suite.write(plan=PLAN, test=f"{HEAD}\n\n{test}")
    result = suite.run()
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*asks for the fixture `sla` and never calls sla.check(result)*"])


def test_a_fault_of_our_hooks_fails_that_test_and_goes_on(suite):
    conftest = suite.pytester.path / "conftest.py"
    conftest.write_text(
        conftest.read_text() + "\nfrom pytest_llmperf.session.state import PytestSession\n"
        "_noted = PytestSession.phase_ended\n"
        "def broken(self, test, phase, error, skipped):\n"
        "    if 'test_x' in test and phase == 'call':\n"
        "        raise RuntimeError('a fault')\n"
        "    return _noted(self, test, phase, error, skipped)\n"
        "PytestSession.phase_ended = broken\n"
    )
    test = "def test_x(llm_server, load_driver, load_point):\n    load_driver.run(llm_server, load_point)\n"
    suite.write(plan=PLAN, test=f"{HEAD}\n\n{test}{ANOTHER}")
    result = suite.run_apart()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*llmperf could not note this test: RuntimeError: a fault*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_a_dry_run_totals_what_it_would_take(suite):
    suite.write(plan=PLAN, test=f"{HEAD}{ANOTHER}")
    suite.edit_plan("concurrency: 1, requests: 4", "request_rate: 2, requests: 4")
    result = suite.run("--llmperf-dry-run")
    result.stdout.fnmatch_lines(["in all: 1 start, 1 run, 4 requests, about 2 s of load"])
