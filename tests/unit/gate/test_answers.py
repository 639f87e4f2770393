"""Answers of a session beside those of its baseline."""

from dataclasses import replace

from samples import record, run

from pytest_llmperf.gate.answers import ChangedAnswer, changed_answers
from pytest_llmperf.metrics.answers import Answers, answers_of


def answers(*texts: str) -> Answers:
    """The guarded answers of runs that give one prompt these answers, a run each."""
    asked = [replace(record(), prompt_id="p", output_id=f"id of {text}", text=text) for text in texts]
    found = answers_of([run([one], number) for number, one in enumerate(asked)])
    assert found is not None
    return found


def test_the_text_of_a_changed_answer_is_that_of_the_run_that_gave_it():
    changed = list(changed_answers([answers("old", "other")], answers("other", "new", "old")))
    assert changed == [ChangedAnswer("p", "old", "new")]
    assert not list(changed_answers([answers("old", "other")], answers("other", "old")))
