"""What a marker selects of a plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import plan_text

from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.session.select.marker import selected

LOADS = """
  chat: {input_tokens: 8, concurrency: 1, requests: 4, combinations: {slow: {output_tokens: 9}}}
  chat-long: {input_tokens: 8, concurrency: {sweep: [1, 2]}, requests: 4}
"""


@pytest.mark.parametrize(
    ("keywords", "names"),
    [
        ({}, ["chat-slow", "chat-long-c1", "chat-long-c2"]),
        ({"loads": ["chat-long"]}, ["chat-long-c1", "chat-long-c2"]),
        ({"loads": ["chat"]}, ["chat-slow"]),
    ],
)
def test_a_load_whose_name_has_a_dash_is_selected_with_all_its_points(
    keywords: dict[str, object], names: list[str]
) -> None:
    plan = parse_plan(plan_text(loads=LOADS), "plan.yaml")
    assert [point.name for point in selected(plan, keywords, Path("test_it.py")).loads] == names
