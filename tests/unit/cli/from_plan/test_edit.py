"""Values set in a plan's text."""

from __future__ import annotations

import pytest
import yaml
from samples import plan_text

from pytest_llmperf.cli.from_plan.edit import with_value

FLOW = plan_text()
BLOCK = plan_text(loads="  s:\n    # short ones\n    input_tokens: 8\n    concurrency: 2\n    requests: 20  # few\n")


@pytest.mark.parametrize("text", [FLOW, BLOCK], ids=["flow", "block"])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("loads", "s", "requests"), "90"),
        (("loads", "s", "warmup"), "{requests: 40}"),
        (("margins", "itl_p50"), "8%"),
        (("runs",), "5"),
    ],
    ids=lambda given: ".".join(given) if isinstance(given, tuple) else given,
)
def test_one_value_changes_and_nothing_else(text, path, value):
    changed = with_value(text, path, value)
    expected = yaml.safe_load(text)
    place = expected
    for key in path[:-1]:
        place = place.setdefault(key, {})
    place[path[-1]] = yaml.safe_load(value)
    assert yaml.safe_load(changed) == expected


def test_comments_and_order_are_kept():
    changed = with_value(with_value(BLOCK, ("loads", "s", "requests"), "90"), ("loads", "s", "warmup"), "off")
    assert "    # short ones\n    warmup: off\n    input_tokens: 8\n" in changed
    assert "requests: 90  # few" in changed


def test_a_second_margin_joins_the_first():
    changed = with_value(with_value(FLOW, ("margins", "itl_p50"), "8%"), ("margins", "ttft_p50"), "12%")
    assert yaml.safe_load(changed)["margins"] == {"itl_p50": "8%", "ttft_p50": "12%"}


@pytest.mark.parametrize("value", ["{sweep: [20, 40]}", "[20, 40]"])
def test_what_is_no_single_value_is_left_alone(value):
    text = plan_text(loads=f"  s: {{input_tokens: 8, concurrency: 2, requests: {value}}}")
    assert with_value(text, ("loads", "s", "requests"), "90") is None


def test_what_is_no_mapping_takes_no_key():
    assert with_value("loads: {s: 3}\n", ("loads", "s", "requests"), "90") is None
    assert with_value("3\n", ("runs",), "5") is None
