"""The part of a plan that says what is sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import plan_text

from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import load_plan, parse_plan
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.prompts import Lengths
from pytest_llmperf.runner.describe import describe_load


def _text(keys: str, rest: str = "") -> str:
    """A load of two keys, and `keys`; it starts at line 5."""
    return plan_text(loads=f"  s: {{concurrency: 1, requests: 20, {keys}}}", rest=rest)


def _points(keys: str, rest: str = "") -> tuple[LoadPoint, ...]:
    return parse_plan(_text(keys, rest), "plan.yaml").load_points()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("output_tokens: 3", "either `input_tokens` (synthetic prompts) or `prompts: {file: ...}`"),
        ("input_tokens: 8, prompts: {file: a.csv}", "either `input_tokens` (synthetic prompts) or"),
        ("input_tokens: 8, prompt_as: token-ids", "token-ids needs endpoint: completions; chat takes text only"),
        ("input_tokens: 8, prompt_as: tokenizer", "tokenizer needs `tokenizer: PATH`, in the load or for the whole"),
        (
            "prompts: {file: a.csv}, prompt_as: token-ids, endpoint: completions",
            "token-ids of a file's texts needs `tokenizer: PATH`",
        ),
        ("input_tokens: 8, conversation: {}", "conversation of synthetic prompts needs `turns`"),
        ("input_tokens: 8, conversation: {turns: 2}, endpoint: responses", "needs endpoint: chat; responses has no"),
        (
            "input_tokens: 8, conversation: {turns: 30}",
            "requests: 20 (turns) is less than one conversation of 30 turns",
        ),
        ("prompts: {file: a.csv}, conversation: {}", "conversation needs a ShareGPT or JSONL file; csv holds single"),
    ],
)
def test_keys_that_do_not_go_together(keys: str, message: str):
    with pytest.raises(PlanError) as error:
        _points(keys)
    assert str(error.value).startswith("plan.yaml:5: loads.s: ")
    assert message in str(error.value)


def test_a_conversation_needs_users():
    text = plan_text(loads="  s: {request_rate: 1, requests: 2, input_tokens: 8, conversation: {turns: 2}}")
    with pytest.raises(PlanError, match="conversation needs `concurrency`, the number of users"):
        parse_plan(text, "plan.yaml")


def test_lengths_are_a_number_a_distribution_or_a_sweep():
    (point,) = _points("input_tokens: {mean: 9, sd: 2, max: 12}, output_tokens: {mean: 5}")
    assert point.input_tokens == Lengths(mean=9, sd=2, max=12)
    assert point.output_tokens == Lengths(mean=5)
    assert [p.name for p in _points("input_tokens: {sweep: [8, 16]}")] == ["s-in8", "s-in16"]
    assert hash(point) == hash(_points("input_tokens: {mean: 9, sd: 2, max: 12}, output_tokens: {mean: 5}")[0])


def test_dataset_entries_can_be_swept():
    points = _points("input_tokens: 8, dataset_entries: {sweep: '100:200'}")
    assert [(point.name, point.dataset_entries) for point in points] == [("s-d100", 100), ("s-d200", 200)]


def test_the_plans_tokenizer_is_every_loads_that_names_none():
    assert _points("input_tokens: 8", "tokenizer: /t\n")[0].tokenizer == "/t"
    assert _points("input_tokens: 8, tokenizer: /own", "tokenizer: /t\n")[0].tokenizer == "/own"
    assert _points("input_tokens: 8", "tokenizer: /t\n")[0].prompt_form == "tokenizer"
    assert _points("input_tokens: 8, prompt_as: words", "tokenizer: /t\n")[0].prompt_form == "words"
    assert _points("input_tokens: 8")[0].prompt_form == "words"
    assert _points("input_tokens: 8, prompt_as: tokenizer", "tokenizer: /t\n")


def test_paths_count_from_the_plan(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.jsonl").write_text('{"input": "a"}')
    (tmp_path / "data" / "t").mkdir()
    (tmp_path / "plan.yaml").write_text(_text("prompts: {file: data/x.jsonl}", "tokenizer: ./data/t\n"))
    (point,) = load_plan(tmp_path / "plan.yaml").load_points()
    assert point.prompts is not None
    assert point.prompts.file == str(tmp_path / "data" / "x.jsonl")
    assert point.tokenizer == str(tmp_path / "data" / "t")


def test_a_file_that_is_not_there_is_told_with_the_plan(tmp_path: Path):
    (tmp_path / "plan.yaml").write_text(_text("prompts: {file: x.jsonl}"))
    with pytest.raises(PlanError, match=r"plan\.yaml:5: loads\.s\.prompts\.file: .*x\.jsonl is not a file"):
        load_plan(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("load", "more", "message"),
    [
        ("prompts: {file: x.jsonl}", "", r"5: loads\.s\.prompts: .*x\.jsonl:2: not JSON"),
        ("prompts: {file: x.jsonl, format: csv}", "", r"5: loads\.s\.prompts: .*x\.jsonl:4: "),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_the_plan(tmp_path: Path, load: str, more: str, message: str):
    (tmp_path / "x.jsonl").write_text('{"input": "a"}\n{"input\n\n,\n')
    (tmp_path / "plan.yaml").write_text(_text(load, more))
    with pytest.raises(PlanError, match=r"plan\.yaml:" + message):
        load_plan(tmp_path / "plan.yaml")


def test_a_conversation_of_single_prompts_is_told_with_the_plan(tmp_path: Path):
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "plan.yaml").write_text(_text("prompts: {file: x.jsonl}, conversation: {}"))
    with pytest.raises(PlanError, match=r"5: loads\.s\.prompts: .*x\.jsonl has no dialogue of several turns"):
        load_plan(tmp_path / "plan.yaml")


def test_what_a_dry_run_says_of_prompts():
    (point,) = _points("input_tokens: {mean: 9, sd: 2}, output_tokens: 4")
    assert "9 ± 2, at least 1 tokens in, 4 out" in describe_load(point, 1)
    (point,) = _points("prompts: {file: dir/x.csv}")
    assert "prompts of x.csv, 128 out" in describe_load(point, 1)
