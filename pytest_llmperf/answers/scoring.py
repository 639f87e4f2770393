"""A run whose records hold texts -> the run with scores and digests, and with no text that nobody asked to keep.

Runs between two measurements: nothing here may be called while a load is driven.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pytest_llmperf.answers.judge import Question, marks
from pytest_llmperf.answers.scores import SCORES, Score, checked, pattern_score, schema_score
from pytest_llmperf.boundary.secrets import HIDDEN
from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.plan.load.answers import AnswerSpec, load_function, read_schema
from pytest_llmperf.records import RequestRecord, Run

_MOST_TEXT = 2000
"""Characters that are kept of a guarded answer."""
_Scored = dict[str, float]


class AnswerScorer:
    """Scores the answers of one load; `judge_headers` are those of requests to its judge. Raises MissingExtra."""

    def __init__(self, spec: AnswerSpec, judge_headers: Sequence[tuple[str, str]] = ()) -> None:
        if spec.missing:
            raise spec.missing
        self._spec, self._judge_headers = spec, tuple(judge_headers)
        self._scores: dict[str, Score] = {name: SCORES[name] for name in spec.scores}
        if spec.regex is not None:
            self._scores["regex"] = pattern_score(spec.regex)
        if spec.json_schema is not None:
            self._scores["json_schema"] = schema_score(read_schema(spec.json_schema))
        self._function = load_function(spec.function) if spec.function else None
        self._known: dict[Question, tuple[_Scored, tuple[str, ...]]] = {}
        """Scores by question: a server that answers alike in every run is scored once."""

    def scored(self, run: Run) -> Run:
        """The run with the scores of its measured requests that succeeded; a note says which have none, and why."""
        self._score([record for record in run.measured if record.ok])
        guarded = self._guarded(run.measured)
        troubles: Counter[str] = Counter()
        records = tuple([self._finished(record, guarded, troubles) for record in run.records])
        notes = [f"answers: {count} have no score: {why}" for why, count in troubles.items()]
        return replace(run, records=records, notes=(*run.notes, *notes))

    def _guarded(self, records: Sequence[RequestRecord]) -> set[str]:
        """Prompts of the guard: the first different ones."""
        if self._spec.guard is None:
            return set()
        different = dict.fromkeys(_digest(record.prompt or "") for record in records)
        return set(list(different)[: self._spec.guard.prompts])

    def _finished(self, record: RequestRecord, guarded: set[str], troubles: Counter[str]) -> RequestRecord:
        bare = replace(record, prompt=None, text=None, references=())
        kept = self._kept(record)
        if record.phase != "measured" or not record.ok:
            return replace(bare, **kept)
        prompt, text = record.prompt or "", record.text or ""
        prompt_id = _digest(prompt)
        scores, lacking = self._known[_question(record)]
        troubles.update(lacking)
        own = prompt_id in guarded
        if own and self._spec.store_texts == "guard":
            kept = {"text": self._redacted(text)[:_MOST_TEXT]}
        return replace(bare, prompt_id=prompt_id, output_id=_digest(text) if own else None, scores=scores, **kept)

    def _kept(self, record: RequestRecord) -> dict[str, Any]:
        """Texts that the plan asks to keep of every request."""
        if self._spec.store_texts != "all":
            return {}
        texts = {name: self._redacted(getattr(record, name) or "") for name in ("prompt", "text")}
        return {**texts, "references": tuple(map(self._redacted, record.references))}

    def _redacted(self, text: str) -> str:
        for pattern in self._spec.redact:
            text = re.sub(pattern, HIDDEN, text)
        return foreign(text)

    def _score(self, records: Sequence[RequestRecord]) -> None:
        new = [one for one in dict.fromkeys(map(_question, records)) if one not in self._known]
        marked: list[float | str] = []
        if self._spec.judge is not None:
            marked = marks(self._spec.judge, self._judge_headers, new)
        for number, (prompt, answer, references) in enumerate(new):
            found = dict(self._own_scores(prompt, answer, references))
            if marked:
                found["judge"] = marked[number]
            scores = {name: value for name, value in found.items() if isinstance(value, float)}
            lacking = tuple(value for value in found.values() if isinstance(value, str))
            self._known[prompt, answer, references] = scores, lacking

    def _own_scores(self, prompt: str, answer: str, references: tuple[str, ...]) -> Iterator[tuple[str, float | str]]:
        """Scores by name, or a sentence on why the user's function gave none."""
        for name, score in self._scores.items():
            yield name, score(answer, references)
        if self._function is not None:
            try:
                yield "function", checked(self._function(answer, references, prompt))
            except Exception as error:  # the user's code; what was measured is not lost for it
                # No message: it may hold the answer.
                yield "function", f"{self._spec.function} raised {type(error).__name__}"


def without_texts(run: Run) -> Run:
    """The run as one of a load whose answers nobody looks at."""
    bare = [replace(record, prompt=None, text=None, references=()) for record in run.records]
    return replace(run, records=tuple(bare))


def _question(record: RequestRecord) -> Question:
    """A prompt may stand in its file more than once, with other references."""
    return record.prompt or "", record.text or "", record.references


def _digest(text: str) -> str:
    return hashlib.blake2s(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
