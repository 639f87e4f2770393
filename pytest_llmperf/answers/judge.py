"""A model at a URL that marks answers: asked after a run, never while something is measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from pytest_llmperf.answers.scores import checked
from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.plan.load.answers import JudgeSpec
from pytest_llmperf.plan.server import urls

Question = tuple[str, str, tuple[str, ...]]
"""Prompt, answer and references."""
_TRIES = 2
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def marks(spec: JudgeSpec, headers: Sequence[tuple[str, str]], questions: Sequence[Question]) -> list[float | str]:
    """The mark of each answer in 0..1, or a sentence on why there is none."""
    with (
        httpx.Client(headers=dict(headers), timeout=spec.timeout) as client,
        ThreadPoolExecutor(spec.parallel) as pool,
    ):
        return list(pool.map(lambda question: _mark(client, spec, question), questions))


def _mark(client: httpx.Client, spec: JudgeSpec, question: Question) -> float | str:
    failed = ""
    for _ in range(_TRIES):
        try:
            response = client.post(urls.address(spec.url, "/v1/chat/completions"), json=_body(spec, question))
            response.raise_for_status()
            return _read(response.json()["choices"][0]["message"]["content"])
        except httpx.HTTPStatusError as error:
            failed = f"HTTP status {error.response.status_code}"
        except httpx.HTTPError as error:
            failed = type(error).__name__
        except (ValueError, KeyError, IndexError, TypeError) as error:
            failed = f"no mark in its reply ({error})"
    return foreign(f"the judge gave none: {failed}")


def _read(reply: str) -> float:
    """The last number of a reply, which may give its reasons first."""
    found = _NUMBER.findall(reply)
    if not found:
        raise ValueError("no number")
    return checked(float(found[-1]))


def _body(spec: JudgeSpec, question: Question) -> dict[str, object]:
    prompt, answer, references = question
    right = "".join(f"\n\nA right answer:\n{reference}" for reference in references)
    content = f"Question:\n{prompt}{right}\n\nAnswer to mark:\n{answer}"
    roles = (("system", spec.instructions), ("user", content))
    messages = [{"role": role, "content": text} for role, text in roles]
    return {"model": spec.model, "messages": messages, "temperature": 0, "stream": False}
