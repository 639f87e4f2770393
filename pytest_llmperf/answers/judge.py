"""A model at a URL that marks answers: asked after a run, never while something is measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from pytest_llmperf.answers.scores import checked
from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.load.endpoints.openai import shorten
from pytest_llmperf.plan.load.answers import JudgeSpec
from pytest_llmperf.plan.server import urls
from pytest_llmperf.servers.http import ask
from pytest_llmperf.servers.secrets import expand_url

Question = tuple[str, str, tuple[str, ...]]
"""Prompt, answer and references."""
_TRIES = 2
_NUMBER = re.compile(r"-?(?:\d+(?:[.,]\d+)?|(?<![\w.])\.\d+)")


def marks(spec: JudgeSpec, headers: Sequence[tuple[str, str]], questions: Sequence[Question]) -> list[float | str]:
    """The mark of each answer in 0..1, or a sentence on why there is none."""
    url = expand_url(urls.address(spec.url, "/v1/chat/completions"))
    with ThreadPoolExecutor(spec.parallel) as pool:
        return list(pool.map(lambda question: _mark(url, spec, headers, question), questions))


def _mark(url: str, spec: JudgeSpec, headers: Sequence[tuple[str, str]], question: Question) -> float | str:
    failed = ""
    for _ in range(_TRIES):
        try:
            answer = ask("POST", url, headers=headers, body=_body(spec, question), timeout_s=spec.timeout)
            if answer.status_code == 200:
                return _read(answer.json()["choices"][0]["message"]["content"])
            failed = f"HTTP status {answer.status_code}"
        except httpx.TransportError as error:
            failed = f"{type(error).__name__}: {error}"
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            failed = f"no mark in its reply ({shorten(str(error))})"
    return foreign(f"the judge gave none: {failed}")


def _read(reply: str) -> float:
    """The last number of a reply, which may give its reasons first."""
    found = _NUMBER.findall(reply)
    if not found:
        raise ValueError("no number")
    return checked(float(found[-1].replace(",", ".")))


def _body(spec: JudgeSpec, question: Question) -> dict[str, object]:
    prompt, answer, references = question
    right = "".join(f"\n\nA right answer:\n{reference}" for reference in references)
    content = f"Question:\n{prompt}{right}\n\nAnswer to mark:\n{answer}"
    roles = (("system", spec.instructions), ("user", content))
    messages = [{"role": role, "content": text} for role, text in roles]
    return {"model": spec.model, "messages": messages, "temperature": 0, "stream": False}
