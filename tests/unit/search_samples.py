"""A finished search with everything that the reports tell: ties, a broken limit, failures, what does not fit."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from report_samples import EVIL

from pytest_llmperf.metrics.stats.compliance import LimitRun
from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.search.candidates import candidates
from pytest_llmperf.search.result import SearchResult, make_result
from pytest_llmperf.search.snippet import launch_command, plan_snippet, server_snippet
from pytest_llmperf.search.strategy import modes
from pytest_llmperf.search.strategy.contest import Contest, PruneReason
from pytest_llmperf.search.strategy.trial import RunFacts, Trial

PLAN = """\
model: ./m
locked: {dtype: half}
servers:
  other: {engine: vllm}
  grid: &grid
    engine: vllm
    ready_timeout: 10 min
    env: {HF_TOKEN: "${HF_TOKEN}"}
    args: {tensor-parallel-size: {sweep: [1, 2, 4, 16]}, max-num-seqs: {sweep: [8, 64]}, kv-transfer: &kv {a: 1}}
    combinations: {plain: {}, eager: {enforce-eager: true}}
loads:
  chat: {input_tokens: 8, concurrency: 2, requests: 20, sla: {ttft_p99: "<= 400 ms"}}
  rest: {input_tokens: 8, concurrency: 2, requests: 20}
searches:
  best: {server: grid, loads: chat, mode: brute}
  weighed: {server: grid, loads: chat, mode: brute, objective: {ttft_p99: 1, output_token_throughput: 2}}
"""
FACTS = {"slug": "h200x8-vllm", "engine": "vllm", "gpus": ["NVIDIA H200"], "engine_version": "0.32"}


def measured(trial: Trial, rounds: int, name: str) -> Trial:
    """TP 4 is fast and needs to wait; TP 1 with many requests is too slow; TP 16 does not fit, and eager is broken."""
    if "tp16" in name:
        return replace(trial, skipped="needs 16 GPUs, found 8")
    if "eager" in name:
        return replace(trial, error=f"server died {EVIL}")
    tp = int(re.findall(r"tp(\d+)", name)[0])
    tail = {"8": 100.0, "64": 900.0}[re.findall(r"seqs(\d+)", name)[0]] / tp
    values = {"output_token_throughput": 100.0 * tp, "output_token_throughput_per_gpu": 12.5 * tp, "ttft_p99": tail}
    limits = {
        "ttft_p99 <= 400 ms": LimitRun(tail, 100, 0 if tail < 400 else 100),
        "error_rate <= 0": LimitRun(0.0, 100, 0),
    }
    runs = [RunFacts("chat", n + 1, values, limits, 20, 0) for n in range(rounds)]
    return replace(trial, runs=tuple(runs))


def searched(name: str = "best", **facts: Any) -> SearchResult:
    found = candidates(parse_plan(PLAN, "plan.yaml"), name, 8)

    def run(trial: Trial, rounds: int, prune_reason: PruneReason) -> Trial:
        return measured(trial, rounds, found.configs[trial.position].name)

    contest = Contest(found.goal, run, 1)
    modes.brute(found.space, contest)
    result = make_result(found, contest, FACTS, interrupted=False, notes=["a note"])
    position = contest.ranked()[0]
    return replace(
        result,
        snippet=server_snippet(PLAN, found, position),
        plan=plan_snippet(PLAN, found, position),
        command=launch_command(found.configs[position], ()),
        **facts,
    )
