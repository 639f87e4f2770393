"""When servers start and stop, and what happens where they cannot."""

from __future__ import annotations

import pytest
from perf_suite import TEST, edited

STARTED = "Application startup complete"


def test_each_configuration_starts_once_for_all_tests_of_all_files(suite):
    suite.pytester.makepyfile(
        test_other="""
        import pytest

        @pytest.mark.llmperf(plan="plan.yaml", loads=["short"])
        def test_other(llm_server, load_point):
            assert llm_server.url.startswith("http://127.0.0.1:")
        """
    )
    suite.write(test=edited(TEST, "baseline.check(result)", ""))
    suite.run("--llmperf-runs=1").assert_outcomes(passed=8)
    logs = {path.stem: path.read_text() for path in (suite.output / "servers").iterdir()}
    assert sorted(logs) == ["tp1pp1", "tp4pp2"]
    assert [log.count(STARTED) for log in logs.values()] == [1, 1]


BIG = """
model: Qwen/QwQ-32B
locked: {kv-cache-dtype: fp8}
servers:
  tp4pp2: {engine: vllm, args: {tensor-parallel-size: 4, pipeline-parallel-size: 2}, env: {HF_TOKEN: "${HF_TOKEN}"}}
  solo: {engine: sglang, gpus: 0}
loads:
  short: {input_tokens: 8, output_tokens: 4, concurrency: 2, requests: 20}
  rate: {input_tokens: 8, output_tokens: 4, request_rate: 10, requests: 20}
"""


def test_what_the_machine_lacks_is_the_skip_reason(suite, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    suite.write(plan=BIG)
    result = suite.run("-rs", "-k", "short")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*needs 8 GPUs, found 0*", "*needs the executable 'sglang', which was not found*"])
    assert suite.points()["tp4pp2-short"]["error"] == "skipped: needs 8 GPUs, found 0"


def test_strict_fails_instead(suite):
    suite.write(plan=BIG)
    result = suite.run("--llmperf-strict", "-k", "tp4pp2-short")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*needs 8 GPUs, found 0 (--llmperf-strict)*"])


def test_strict_from_the_ini_file(suite):
    suite.write(plan=BIG)
    suite.run("-o", "llmperf_strict=true", "-k", "tp4pp2-short").assert_outcomes(errors=1)


def test_dry_run_prints_the_command_and_runs_nothing(suite, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    suite.write(plan=BIG)
    result = suite.run("--llmperf-dry-run")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "tp4pp2: 8 GPUs needed (cannot run here: needs 8 GPUs, found 0)",
            '  HF_TOKEN="${HF_TOKEN}" CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 '
            "vllm serve Qwen/QwQ-32B --host 127.0.0.1 --port PORT --kv-cache-dtype fp8 --tensor-parallel-size 4 "
            "--pipeline-parallel-size 2",
            "  short: concurrency 2, 8 tokens in, 4 out, 3 runs x 20 requests: as long as the server takes",
            "  rate: 10 req/s constant, 8 tokens in, 4 out, 3 runs x 20 requests: about 6 s",
        ]
    )
    assert "hf_very_secret" not in result.stdout.str()
    assert not suite.output.exists()


def test_a_server_that_does_not_start_fails_all_its_points_with_the_first_error_of_its_log(suite):
    suite.edit_plan("decode-ms-per-step: 2", "fault-start: true")
    result = suite.run("-k", "tp4pp2")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(["*server 'tp4pp2' ended before it was ready; exit code 1; first error in its log: *"])
    assert (suite.output / "servers" / "tp4pp2.log").read_text().count("non-default args") == 1
    assert "exit code 1" in suite.points()["tp4pp2-short"]["error"]


def test_a_server_that_dies_fails_the_test_and_keeps_what_was_measured(suite):
    suite.edit_plan("decode-ms-per-step: 2", "decode-ms-per-step: 2, fault-die-after: 8")
    suite.edit_plan("concurrency: 2, requests: 10", "concurrency: 2, requests: 10, no_data_timeout: 5 s")
    result = suite.run("-k", "tp4pp2 and (short or 100)")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*server 'tp4pp2' died; exit code 1; first error in its log: *",
            "*Captured stderr (llm server)*",
        ]
    )
    died = suite.points()["tp4pp2-short"]
    assert "died" in died["error"]
    assert died["passed"] is False
    assert 0 < died["metrics"]["requests"]["ok"] < 10
    assert (
        len((suite.output / "requests" / "test_perf.py.test_serving-tp4pp2-short.jsonl").read_text().splitlines()) == 12
    )


@pytest.mark.parametrize(
    ("fault", "is_suspect"), [(", fault-status-every: 4", True), ("", False)], ids=["refuses requests", "is only slow"]
)
def test_the_log_of_a_server_that_is_a_suspect_reaches_junit(suite, fault, is_suspect):
    suite.edit_plan("max-num-seqs: 4}}\n  tp4", f"max-num-seqs: 4{fault}}}}}\n  tp4")
    suite.edit_plan("concurrency: 2", 'sla: {ttft_p99: "<= 1 us"}, concurrency: 2')
    suite.run("-k", "tp1pp1-short", "--junitxml=junit.xml", "-o", "junit_logging=all").assert_outcomes(failed=1)
    assert (STARTED in (suite.pytester.path / "junit.xml").read_text()) == is_suspect


@pytest.mark.parametrize("option", [["-n2"], ["-n1"], ["--dist=load", "--tx=2*popen"]])
def test_xdist_is_refused_before_anything_starts(suite, option):
    result = suite.run_apart(*option)
    result.assert_outcomes(errors=6)
    result.stdout.fnmatch_lines(["*run them with -n0, or deselect them with -m 'not llmperf'"])
    assert not (suite.output / "servers").exists()


def test_xdist_runs_other_tests(suite):
    suite.pytester.makepyfile(test_unit="def test_a(): pass")
    suite.run_apart("-n2", "test_unit.py").assert_outcomes(passed=1)


def test_xdist_with_no_workers_runs(suite):
    suite.run_apart("-n0", "-k", "tp1pp1-short", "--llmperf-update-baselines").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  short: {",
            "  short: {tokenizer: models/none, ",
            "plan.yaml:8: loads.short.tokenizer: needs the tokenizer */models/none, which is not a folder; give *",
        ),
        (
            "tp1pp1: {engine: embedded, args: {step: modelled, decode-ms-per-step: 1, max-num-seqs: 4}",
            "tp1pp1: {engine: vllm, gpus: 0, executable: ./vlm",
            "plan.yaml:5: servers.tp1pp1.executable: needs the executable '*/vlm', which was not found",
        ),
        (
            "model: embedded\nruns: 2\nservers:\n  tp1pp1: {engine: embedded, args: {step: modelled, "
            "decode-ms-per-step: 1, max-num-seqs: 4}",
            "model: ./no-model\nruns: 2\nservers:\n  tp1pp1: {engine: vllm, gpus: 0, executable: sh",
            "plan.yaml:2: model: needs the model folder */no-model, which does not exist",
        ),
        (
            "tp1pp1: {engine: embedded, args: {step: modelled, decode-ms-per-step: 1, max-num-seqs: 4}",
            "tp1pp1: {engine: openai, url: 'http://h', bearer: '${NO_KEY}'",
            "plan.yaml:5: servers.tp1pp1.bearer: needs the environment variable NO_KEY, which is not set",
        ),
        (
            "runs: 2",
            "runs: 2\nlocked: {max-model-len: 10}",
            "plan.yaml:9: loads.short.output_tokens: 12 tokens of prompt and answer do not fit into tp1pp1's "
            "max-model-len: 10",
        ),
        (
            "  short: {",
            "  short: {endpoint: generate, ",
            "plan.yaml:8: loads.short.endpoint: tp1pp1 (embedded) has no generate; write one of chat, completions, *",
        ),
        (
            "tp1pp1: {engine: embedded, args: {step: modelled, decode-ms-per-step: 1, max-num-seqs: 4}",
            "tp1pp1: {engine: triton, gpus: 99, models: {m: {backend: vllm}}",
            "loads.short: tp1pp1 (triton) has no chat; write one of generate, *",
        ),
    ],
    ids=["tokenizer", "executable", "model", "variable", "context", "endpoint", "endpoint-elsewhere"],
)
@pytest.mark.parametrize("how", [(), ("--llmperf-dry-run",)], ids=["run", "dry"])
def test_what_a_plan_names_and_is_not_there_is_no_skip(suite, old, new, message, how):
    suite.edit_plan(old, new)
    result = suite.run("-k", "short", *how)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{message}*"])
    assert not (suite.output / "servers").exists()


def test_what_another_machine_has_need_not_be_here(suite):
    suite.write(plan=BIG)
    suite.edit_plan("model: ", "model: /no/such/")
    suite.run("-k", "tp4pp2-short").assert_outcomes(skipped=1)


def test_answers_that_the_servers_context_cannot_hold_fail_before_the_first_run(suite):
    suite.edit_plan("requests: 10, warmup_requests: 1}\n  rate", "requests: 10}\n  rate")
    suite.edit_plan("output_tokens: 4, request_rate", "output_tokens: 5000, request_rate")
    suite.write(test=edited(TEST, "    baseline.check(result)\n", ""))
    result = suite.run("-k", "tp1pp1-short or tp1pp1-rate-100rps")
    result.assert_outcomes(failed=1, passed=1)
    told = "load rate-100rps: 5000 output tokens are more than http://127.0.0.1:* takes: its /v1/models says"
    result.stdout.fnmatch_lines([f"*{told} max_model_len *"])
    assert len(list((suite.output / "requests").iterdir())) == 1
