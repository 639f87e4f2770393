"""The best configuration as a plan of its own, which lies in another folder than the plan that it came from."""

from __future__ import annotations

from pytest_llmperf.plan.file import load_plan
from pytest_llmperf.search.candidates import candidates
from pytest_llmperf.search.snippet import plan_snippet

PLAN = """
model: m
tokenizer: tokenizer
locked: {tokenizer: org/name}
servers:
  s:
    engine: command
    command: [./start, "{port}"]
    args: {tokenizer: org/name, max-num-seqs: {sweep: [1, 2]}}
    proxy: {command: [x, "{port}", "{replicas}"]}
loads:
  file: {prompts: {file: data.jsonl}, concurrency: 1, requests: 4}
  own: {prompts: {file: "llmperf:quick"}, concurrency: 1, requests: 4}
searches:
  best: {server: s, loads: [file, own]}
"""


def test_the_options_of_another_program_hold_no_paths(tmp_path):
    (tmp_path / "engine").mkdir()
    text = """
model: m
servers:
  s:
    engine: trtllm
    flow: serve
    options: {tokenizer: org/name, max_num_tokens: {sweep: [1024, 2048]}}
loads:
  short: {input_tokens: 8, output_tokens: 4, concurrency: 1, requests: 4}
searches:
  best: {server: s, loads: [short]}
"""
    (tmp_path / "plan.yaml").write_text(text)
    found = candidates(load_plan(tmp_path / "plan.yaml"), "best", 0)
    assert "tokenizer: org/name" in plan_snippet(text, found, next(iter(found.configs)), tmp_path)


def test_paths_count_from_the_first_plans_folder(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"input": "a"}\n')
    (tmp_path / "plan.yaml").write_text(PLAN)
    plan = load_plan(tmp_path / "plan.yaml")
    found = candidates(plan, "best", 0)
    (tmp_path / "out").mkdir()
    best = tmp_path / "out" / "best.yaml"
    best.write_text(plan_snippet(PLAN, found, next(iter(found.configs)), tmp_path))
    taken = load_plan(best)
    (config,) = taken.server_configs()
    assert (config.cwd, config.proxy.cwd, config.args["tokenizer"]) == (str(tmp_path), str(tmp_path), "org/name")
    for name in ("file", "own"):
        assert taken.load(name).prompts == plan.load(name).prompts
        assert taken.load(name).tokenizer == str(tmp_path / "tokenizer")
