"""What a plan asks of answers, and what a mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import plan_text

from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.plan.file import load_plan
from pytest_llmperf.plan.load.answers import AnswerSpec
from pytest_llmperf.plan.load.point import LoadPoint

QUICK = 'prompts: {file: "llmperf:quick"}'


def point(folder: Path, keys: str, rest: str = "") -> LoadPoint:
    (folder / "plan.yaml").write_text(plan_text(loads=f"  s: {{concurrency: 1, requests: 9, {keys}}}", rest=rest))
    return load_plan(folder / "plan.yaml").load_points()[0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (f"{QUICK}, answers: {{}}", "answers: nothing is asked of the answers"),
        (f"{QUICK}, answers: {{scores: [exakt]}}", "must be 'exact', 'normalised', 'numeric'"),
        (f"{QUICK}, answers: {{scores: [exact, exact]}}", "scores: one is named twice"),
        (f"{QUICK}, answers: {{regex: '('}}", "answers.regex: '(' is no regular expression"),
        (f"{QUICK}, answers: {{json_schema: a.json}}", "a.json is no JSON schema: [Errno 2]"),
        (f"{QUICK}, answers: {{json_schema: bad.json}}", "bad.json is no JSON schema: 3 is not valid"),
        (f"{QUICK}, answers: {{json_schema: away.json}}", "$ref 'https://a.example/b' leads out of it, and nothing"),
        (f"{QUICK}, answers: {{json_schema: lost.json}}", "$ref '#/$defs/b' leads nowhere in it"),
        (f"{QUICK}, answers: {{json_schema: deep.json}}", "deep.json is no JSON schema: "),
        (f"{QUICK}, answers: {{json_schema: /dev/zero}}", "/dev/zero is no JSON schema: "),
        (f"{QUICK}, answers: {{function: 'no_such:f'}}", "'no_such:f' is no 'module:callable' that can be imported"),
        (f"{QUICK}, answers: {{function: 'grading_of_tests:LEVEL'}}", "is a int, no function of (answer, references"),
        (f"{QUICK}, answers: {{judge: {{url: 'ftp://x', model: m}}}}", "answers.judge.url"),
        (f"{QUICK}, answers: {{judge: {{url: 'http://x', model: m, bearer: abcd}}}}", "in plain text"),
        (f"{QUICK}, answers: {{guard: {{may_differ: 100 %}}}}", "is no share; write it as '2 %'"),
        (f"{QUICK}, answers: {{regex: a, store_texts: guard}}", "store_texts: guard needs `guard: true`"),
        (f"{QUICK}, answers: {{regex: a}}, ignore_eos: true", "answers: need ignore_eos: false, given True"),
        (f"{QUICK}, answers: {{guard: true}}, prefix_cache: cold", "answers: need prefix_cache: warm, given 'cold'"),
        (f"{QUICK}, answers: {{guard: true}}, temperature: 0.7", "answers.guard: needs `temperature: 0`"),
        (
            f"{QUICK}, answers: {{regex: a}}, cancel: {{share: 10 %, after: 9 s}}",
            "answers: have no place beside `cancel`",
        ),
        ("input_tokens: 8, answers: {scores: [exact]}", "answers.scores: need `prompts: {file: ...}`"),
        ("prompts: {file: some.jsonl}, answers: {scores: [exact]}", "1 of 2 prompts have no right answer"),
        ('prompts: {file: "llmperf:slow"}', "'llmperf:slow' is no set of the package; there is llmperf:quick"),
    ],
)
def test_mistakes_are_told_with_file_and_line(tmp_path, keys, message):
    (tmp_path / "some.jsonl").write_text('{"prompt": "a", "references": ["b"]}\n{"prompt": "c"}\n')
    (tmp_path / "bad.json").write_text('{"type": 3}')
    (tmp_path / "away.json").write_text('{"items": {"$ref": "https://a.example/b"}}')
    (tmp_path / "lost.json").write_text('{"$defs": {"a": {}}, "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}')
    (tmp_path / "deep.json").write_text('{"not": ' * 100_000)
    (tmp_path / "grading_of_tests.py").write_text("LEVEL = 3\n")
    with pytest.raises(PlanError) as raised:
        point(tmp_path, keys)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"{tmp_path}/plan.yaml:5: ")


def test_a_limit_on_a_score_that_nobody_computes_is_a_mistake(tmp_path):
    with pytest.raises(PlanError, match=r"a limit on accuracy_bleu needs the load to score its answers"):
        point(tmp_path, f"{QUICK}, answers: {{scores: [exact]}}", 'sla: {accuracy_bleu: ">= 10 %"}')


def test_answers_that_are_looked_at_end_by_themselves_and_prompts_stay_as_they_are(tmp_path):
    found = point(tmp_path, f"{QUICK}, answers: {{scores: [exact]}}")
    assert (found.ignore_eos, found.prefix_cache) == (False, "warm")
    first = make_trace(found, "key").requests[-1]
    assert isinstance(first.prompt, str)
    assert first.prompt.startswith(("What", "How", "Write", "Re", "Sort", "Join", "Which", "A ", "Convert"))
    assert first.references
    assert make_trace(point(tmp_path, QUICK), "key").requests[-1].references == ()


def test_a_guard_leaves_lengths_to_the_load(tmp_path):
    found = point(tmp_path, "input_tokens: 8, answers: {guard: {may_differ: 2 %, prompts: 9}}")
    assert found.answers is not None
    assert found.answers.guard is not None
    assert (found.ignore_eos, found.answers.guard.may_differ, found.answers.names) == (True, 0.02, ())


def test_every_score_is_a_metric():
    spec = AnswerSpec(scores=("exact", "bleu"), regex="a", judge={"url": "http://x", "model": "m"})
    assert spec.metrics == ("accuracy_exact", "accuracy_bleu", "accuracy_regex", "accuracy_judge")
    assert AnswerSpec(guard=False, regex="a").guard is None
