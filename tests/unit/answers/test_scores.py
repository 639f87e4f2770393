"""Scores of one answer: hand-made pairs whose score is known."""

from __future__ import annotations

import pytest
import sacrebleu

from pytest_llmperf.answers.scores import SCORES, checked, pattern_score, schema_score


@pytest.mark.parametrize(
    ("name", "answer", "references", "score"),
    [
        ("exact", " 42\n", ["42"], 1.0),
        ("exact", "42.", ["42"], 0.0),
        ("exact", "b", ["a", "b"], 1.0),
        ("normalised", "The  Answer, is: YES!", ["answer is yes"], 1.0),
        ("normalised", "no", ["yes"], 0.0),
        ("numeric", "It is 1,250 in all", ["1250"], 1.0),
        ("numeric", "between 3 and 4.0", ["4"], 1.0),
        ("numeric", "1e3", ["1000"], 1.0),
        ("numeric", "-5", ["5"], 0.0),
        ("numeric", "none", ["5"], 0.0),
        ("numeric", ".5", ["0.5"], 1.0),
        ("numeric", "5", [".5"], 0.0),
        ("numeric", "−5", ["-5"], 1.0),
        ("numeric", "-$3", ["$3"], 0.0),
        ("numeric", "-$1,250.50", ["-1250.5"], 1.0),
        ("numeric", "from 10-20", ["20"], 1.0),
        ("numeric", "25 000 руб.", ["25000"], 1.0),
        ("numeric", "25\u00a0000", ["10\u00a0000"], 0.0),
        ("numeric", "in 2024 100 of them", ["100"], 1.0),
        ("numeric", "in 2020 25 000 people", ["25000"], 1.0),
        ("numeric", "20 300", ["20300"], 1.0),
        ("numeric", "10 20 300", ["300"], 1.0),
        ("numeric", "10,20,300", ["300"], 1.0),
        ("numeric", "10 -20 300", ["300"], 1.0),
        ("numeric", "5, 1,200", ["1200"], 1.0),
        ("numeric", "1 234 567", ["1234567"], 1.0),
        ("numeric", "1,234,5678", ["5678"], 1.0),
        ("token_f1", "北京是首都", ["首都是北京"], 1.0),
        ("rouge_l", "首都是北京。", ["首都是上海"], 0.6),
        ("numeric", "5", ["five"], 0.0),
        ("token_f1", "red green", ["green blue"], 0.5),
        ("token_f1", "red red", ["red"], 2 / 3),
        ("token_f1", "", ["red"], 0.0),
        ("rouge_l", "police killed the gunman", ["police kill the gunman"], 0.75),
        ("rouge_l", "the gunman police killed", ["police killed the gunman"], 0.5),
        ("rouge_l", "x", ["y", "x"], 1.0),
        ("chrf", "same", ["same"], 1.0),
        ("bleu", "the cat sat on the mat", ["the cat sat on the mat"], 1.0),
        ("bleu", "", ["the cat"], 0.0),
    ],
)
def test_known_pairs(name, answer, references, score):
    assert SCORES[name](answer, references) == pytest.approx(score)


def test_bleu_and_chrf_are_sacrebleus():
    said, wanted = "the quick brown fox jumps", ["a quick brown dog jumps", "the fast fox jumps"]
    assert SCORES["chrf"](said, wanted) == pytest.approx(sacrebleu.sentence_chrf(said, wanted).score / 100)
    assert SCORES["bleu"](said, wanted) == pytest.approx(sacrebleu.sentence_bleu(said, wanted).score / 100)


def test_a_pattern_is_found_anywhere():
    score = pattern_score(r"^\d{4}-\d\d$")
    assert (score("2024-05", []), score("in 2024-05", [])) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("answer", "score"), [('{"total": 3}', 1.0), ('{"total": "3"}', 0.0), ("{", 0.0), ("[" * 100_000, 0.0)]
)
def test_json_that_meets_a_schema(answer, score):
    schema = {"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}
    assert schema_score(schema)(answer, []) == score


@pytest.mark.parametrize(("value", "score"), [(True, 1.0), (0, 0.0), (0.5, 0.5)])
def test_a_score_of_others(value, score):
    assert checked(value) == score


@pytest.mark.parametrize("value", [1.5, -1, "1", None, float("nan")])
def test_what_is_no_score(value):
    with pytest.raises(ValueError, match="is no score from 0 to 1"):
        checked(value)
