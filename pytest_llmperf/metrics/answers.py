"""Answers of the runs of a point, prompt by prompt: what a baseline keeps of them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from pytest_llmperf.definitions import ACCURACY
from pytest_llmperf.records import RequestRecord, Run

PerPrompt = Mapping[str, float]
"""Mean score by prompt (its digest)."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Scores and digests of the answers of a session's runs."""

    scores: Mapping[str, PerPrompt] = field(default_factory=dict)
    """Scores by metric, over all runs; to four digits."""
    outputs: tuple[Mapping[str, str], ...] = ()
    """Digest of the answer by prompt, a mapping per run; empty where nothing is guarded."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Guarded answers by prompt, where texts are stored: the first of each."""
    every_text: Mapping[str, str] = field(default_factory=dict, compare=False)
    """All different ones by their digests; a baseline has none."""


def answers_of(runs: Sequence[Run]) -> Answers | None:
    """The answers of all runs; None where the load does not look at them."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    outputs: list[Mapping[str, str]] = []
    texts: dict[str, str] = {}
    every_text: dict[str, str] = {}
    for run in runs:
        outputs.append({prompt: record.output_id for prompt, record in _answered(run) if record.output_id})
        for prompt, record in _answered(run):
            for name, value in (record.scores or {}).items():
                scores[f"{ACCURACY}{name}"][prompt].append(value)
            if record.output_id and record.text is not None:
                texts.setdefault(prompt, record.text)
                every_text[record.output_id] = record.text
    if not scores and not any(outputs):
        return None
    means = {
        name: {prompt: round(fmean(values), 4) for prompt, values in of_prompts.items()}
        for name, of_prompts in scores.items()
    }
    return Answers(means, tuple(outputs) if any(outputs) else (), texts, every_text)


def _answered(run: Run) -> Iterator[tuple[str, RequestRecord]]:
    for record in run.measured:
        if record.ok and record.prompt_id is not None:
            yield record.prompt_id, record
