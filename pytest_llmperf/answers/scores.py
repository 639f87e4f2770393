"""Scores of one answer in 0..1, by well-known definitions. Pure.

Against several references the best counts. BLEU and chrF are sacrebleu's, imported when they are asked for.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

Score = Callable[[str, Sequence[str]], float]
"""A score from an answer and its references, of which there is at least one."""

_GROUPING = ", \u00a0\u2009\u202f'’"
_SIGN = r"(?:(?<!\w)[-+−][$€£¥]?)?"  # behind a digit or a letter it is a hyphen: 10-20, 2026-01-31
# Digits of one number stand in groups of three, with nothing but a year before the first: 10, 20, 300 are a list.
_GROUPED = "|".join(
    rf"(?:(?<!\d{sign})|(?<=\d{{4}}{sign})){_SIGN}\d{{1,3}}(?:{sign}\d{{3}})+(?!{sign}?\d)" for sign in _GROUPING
)
_NUMBER = re.compile(rf"(?:(?:{_GROUPED}|{_SIGN}\d+)(?:\.\d+)?|{_SIGN}(?<!\d)\.\d+)(?:[eE][-+]?\d+)?")
_IN_NUMBER = str.maketrans({"−": "-", **dict.fromkeys(f"{_GROUPING}$€£¥")})
"""Replacements of characters in a number: a minus sign by a hyphen, none for a currency and what groups its digits."""
_OWN_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
"""Characters of Han and kana, which are written without spaces: each is a word."""
_ARTICLES = frozenset(("a", "an", "the"))


def exact(answer: str, references: Sequence[str]) -> float:
    """1 where the answer is a reference, but for the space around it."""
    return float(answer.strip() in [reference.strip() for reference in references])


def normalised(answer: str, references: Sequence[str]) -> float:
    """1 where both have the same words, without case, punctuation and English articles (SQuAD's exact match)."""
    return float(_words(answer) in map(_words, references))


def numeric(answer: str, references: Sequence[str]) -> float:
    """1 where the last number of the answer is the last one of a reference, within a relative 1e-9."""
    given = _last_number(answer)
    wanted = [number for reference in references if (number := _last_number(reference)) is not None]
    return float(given is not None and any(math.isclose(given, number, abs_tol=1e-12) for number in wanted))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """F1 of the words that both have, as often as both have them (SQuAD's F1)."""
    given = _words(answer)
    return max(_f1((Counter(given) & Counter(words)).total(), given, words) for words in map(_words, references))


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words, in small letters (Lin 2004, ROUGE-L with beta 1)."""
    given, *wanted = (re.findall(r"\w+", _spaced(text).casefold()) for text in (answer, *references))
    return max(_f1(_common_length(given, words), given, words) for words in wanted)


def chrf(answer: str, references: Sequence[str]) -> float:
    """Sentence chrF / 100."""
    from sacrebleu import sentence_chrf

    return _percent(sentence_chrf(answer, references).score)


def bleu(answer: str, references: Sequence[str]) -> float:
    """Sentence BLEU / 100 with effective order, so that a short answer can have a score."""
    from sacrebleu import sentence_bleu

    return _percent(sentence_bleu(_spaced(answer), list(map(_spaced, references))).score)


SCORES: dict[str, Score] = {
    score.__name__: score for score in (exact, normalised, numeric, token_f1, rouge_l, chrf, bleu)
}


def pattern_score(pattern: str) -> Score:
    """1 where the pattern is found in the answer."""
    find = re.compile(pattern).search
    return lambda answer, references: float(find(answer) is not None)


def schema_score(schema: Any) -> Score:
    """1 where the answer is JSON that meets the schema."""
    from jsonschema.validators import validator_for

    validator = validator_for(schema)(schema)

    def score(answer: str, references: Sequence[str]) -> float:
        try:
            return float(validator.is_valid(json.loads(answer)))
        except (ValueError, RecursionError):
            return 0.0

    return score


def checked(value: Any) -> float:
    """A score that others computed; ValueError where it is no number in 0..1."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r:.80} is no score from 0 to 1")
    return float(value)


def _percent(score: float) -> float:
    return min(1.0, max(0.0, score / 100))


def _words(text: str) -> list[str]:
    """Words without case, punctuation and articles."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(one for one in plain if not unicodedata.category(one).startswith("P"))
    return [word for word in _spaced(kept).split() if word not in _ARTICLES]


def _spaced(text: str) -> str:
    return _OWN_WORD.sub(r" \g<0> ", text)


def _last_number(text: str) -> float | None:
    found = list(_NUMBER.finditer(text))
    return float(found[-1][0].translate(_IN_NUMBER)) if found else None


def _f1(common: int, given: Sequence[str], wanted: Sequence[str]) -> float:
    if not given or not wanted:
        return float(given == wanted)
    return 2 * common / (len(given) + len(wanted))


def _common_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for place, against in enumerate(other, start=1):
            above = row[place]
            row[place] = before + 1 if word == against else max(above, row[place - 1])
            before = above
    return row[-1]
