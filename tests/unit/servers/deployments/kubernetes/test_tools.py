"""Programs that print or wait without an end, and answers that are none."""

from __future__ import annotations

import re
import time

import pytest

from pytest_llmperf.servers.deployments.holder import StepFailed
from pytest_llmperf.servers.deployments.kubernetes.tools import ToolFailed, ask, last_printed, objects, run_step


@pytest.mark.parametrize("redirected", ["", " >&2"], ids=["output", "errors"])
def test_a_question_has_an_answer_of_bounded_size(redirected: str) -> None:
    with pytest.raises(ToolFailed, match=r"sh printed more than 64 MiB: -c '?yes"):
        ask(("sh", "-c", f"yes{redirected}"))


def test_a_question_has_its_time() -> None:
    with pytest.raises(ToolFailed, match=re.escape("sleep did not end within 0.1 s")):
        ask(("sleep", "600"), timeout_s=0.1)


@pytest.mark.parametrize("printed", ["<html>", '{"items"', "[]", "{}", "[" * 100_000], ids=str.__len__)
def test_what_is_no_list_of_objects_is_told(printed: str) -> None:
    with pytest.raises(ToolFailed, match="gave no list of objects: '"):
        objects(("printf", "%s", printed))


def test_of_a_long_log_the_end_is_kept() -> None:
    """It says why a program died."""
    program = "yes | head -c 3000000; echo complaint >&2; echo end"
    text = last_printed(("sh", "-c", program), 1 << 20, time.monotonic() + 600)
    assert text.startswith("[only the last 1024 KiB]\ny\n")
    assert text.endswith("y\ncomplaint\nend\n")
    assert len(text) < (1 << 20) + 100
    assert last_printed(("echo", "a"), 1 << 20, time.monotonic() + 600) == "a\n"


@pytest.mark.parametrize("program", ["echo a; exec sleep 600", "exec yes a"], ids=["waits", "prints on"])
def test_of_a_log_without_an_end_is_kept_what_came_in_time(program: str) -> None:
    seconds = (0.2, 2.0, 20.0, 200.0)  # a slow machine needs more to start it
    texts = (last_printed(("sh", "-c", program), 1 << 10, time.monotonic() + given) for given in seconds)
    text = next(text for text in texts if text.endswith("a\n"))
    assert "[sh did not end in time]\na\n" in text
    assert len(text) < 1100
    assert last_printed(("sh", "-c", program), 1 << 10, 0.0) == "[sh did not end in time]\n"


def test_a_log_of_a_program_that_is_not_there() -> None:
    assert (
        last_printed(("/no/such/kubectl",), 1, 0.0) == "[/no/such/kubectl cannot be run: No such file or directory]\n"
    )


def test_a_step_may_print_a_line_without_an_end(capfd: pytest.CaptureFixture[str]) -> None:
    program = "head -c 3000000 /dev/zero | tr '\\0' x; printf '\\033[31m\\nError: \\342\\200\\256no\\n'; exit 3"
    with pytest.raises(StepFailed, match=r"step 1/6 prepare: Error: .*no \(exit code 3\)"):
        run_step("1/6 prepare", ("sh", "-c", program))
    lines = capfd.readouterr().err.splitlines()
    assert max(map(len, lines)) < 5000
    assert "\x1b" not in "".join(lines)
    assert r"\u202e" in lines[-1]
