"""The plans of the guides are plans."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_llmperf.plan.file import parse_plan

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


@pytest.mark.parametrize(("page", "servers", "loads"), [("triton_vllm", 2, 1), ("prefill_generation", 1, 10)])
def test_a_guides_plan(page, servers, loads):
    text = (GUIDES / f"{page}.md").read_text()
    (plan,) = [parse_plan(block, page) for block in re.findall(r"```yaml\n(# [a-z_/]+\.yaml.*?)```", text, re.DOTALL)]
    assert (len(plan.server_configs()), len(plan.load_points())) == (servers, loads)


def test_the_sweep_and_the_search_of_the_triton_guide():
    text = (GUIDES / "triton_vllm.md").read_text()
    sweep, search = re.findall(r"```yaml\n((?:loads|searches):.*?)```", text, re.DOTALL)
    plan = parse_plan(f"model: m\n{sweep}{search}", "guide")
    assert len(plan.server_configs()) == 3
    assert len(plan.load_points()) == 7
    assert list(plan.searches) == ["best"]
