"""Runs `helm`, `kubectl` and a plan's own commands for a holder. Whatever ends the holder ends them too."""

from __future__ import annotations

import json
import os
import resource
import select
import shlex
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from typing import IO, Any

from pytest_llmperf.servers.deployments import holder
from pytest_llmperf.servers.deployments.holder import StepFailed

_QUESTION_TIMEOUT_S = 60.0
_LAST_LINES = 20
_KEPT_LINES, _LONGEST_LINE = 2000, 1 << 16
_MOST_BYTES = 64 << 20
"""The most that a question's answer may have; that of a cluster with ten thousand pods is a third of it."""
_SHOWN = 200


class ToolFailed(Exception):
    """A command ended with another exit code than 0; the message is its own words."""


def quote(text: str) -> None:
    """Shows the last lines of something that others printed; nothing in them is taken for the holder's own words."""
    for line in text.splitlines()[-_LAST_LINES:]:
        holder.log(f"  | {line}")


def run_step(step: str, words: Sequence[str], *, given: str = "", cwd: str | None = None, cure: str = "") -> None:
    """Runs a command, what it prints in the log as it comes. Raises StepFailed, which names step, cause and `cure`."""
    holder.log(f"$ {shlex.join(words)}")
    cure = f". {cure}" if cure else ""
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd
        )
    except OSError as error:
        # `filename` is the missing folder to run in, or the program.
        missing = error.filename or words[0]
        raise StepFailed(f"step {step}: {words[0]} cannot be run: {missing}: {error.strerror}{cure}") from error
    try:
        lines = _talk(process, given)
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if code:
        raise StepFailed(f"step {step}: {_reason(lines) or words[0]} (exit code {code}){cure}")


def _talk(process: subprocess.Popen[bytes], given: str) -> Sequence[str]:
    """The last lines that the process prints until its end, after it has been `given` its input."""
    assert process.stdin is not None
    stdout = process.stdout
    assert stdout is not None
    try:
        with process.stdin as pipe:
            pipe.write(given.encode())
    except BrokenPipeError:  # it ended without reading, and says why
        pass
    lines = deque[str](maxlen=_KEPT_LINES)
    with stdout:
        for raw in iter(lambda: stdout.readline(_LONGEST_LINE), b""):
            # Programs draw progress over the same line again and again; the last state of it counts.
            lines.append(raw.decode("utf-8", "replace").rstrip("\r\n").rpartition("\r")[2])
            holder.log(f"  | {lines[-1]}")
    return lines


def ask(words: Sequence[str], timeout_s: float = _QUESTION_TIMEOUT_S) -> str:
    """Returns what a command prints. Raises ToolFailed, also where it takes longer than `timeout_s` or has no end."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            code = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                timeout=timeout_s,
                check=False,
                preexec_fn=_with_small_files,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise ToolFailed(f"{words[0]} did not end within {timeout_s:g} s") from error
        except OSError as error:
            raise ToolFailed(f"{words[0]} cannot be run: {error.strerror or error}") from error
        printed, complaints = (_text(file) for file in (output, errors))
    if len(printed) >= _MOST_BYTES or len(complaints) >= _MOST_BYTES:
        raise ToolFailed(f"{words[0]} printed more than {_MOST_BYTES >> 20} MiB: {shlex.join(words[1:])}")
    if code:
        reason = _reason((complaints or printed).splitlines()) or words[0]
        raise ToolFailed(f"{reason} (exit code {code})")
    return printed


def last_printed(words: Sequence[str], most: int, deadline: float) -> str:
    """The last `most` bytes that a command prints until `deadline` (of the monotonic clock), its errors among them.

    A line before them says why they are not all.
    """
    kept, is_cut, has_ended = bytearray(), False, False
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        return f"[{words[0]} cannot be run: {error.strerror or error}]\n"
    with process:
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        try:
            while not has_ended and (left_s := deadline - time.monotonic()) > 0:
                if select.select([pipe], [], [], left_s)[0]:
                    data = os.read(pipe, 1 << 16)
                    kept += data
                    has_ended, is_cut = not data, is_cut or len(kept) > most
                    del kept[:-most]
        finally:
            process.kill()
    why = f"[only the last {most >> 10} KiB]\n" if is_cut else ""
    why += "" if has_ended else f"[{words[0]} did not end in time]\n"
    return why + kept.decode("utf-8", "replace")


def _with_small_files() -> None:
    """Limits what the command may write, for it would fill memory or disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_BYTES, _MOST_BYTES))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def objects(words: Sequence[str], timeout_s: float = _QUESTION_TIMEOUT_S) -> list[dict[str, Any]]:
    """The objects that a `kubectl get … -o json` prints. Raises ToolFailed."""
    text = ask(words, timeout_s)
    try:
        found: list[dict[str, Any]] = json.loads(text)["items"] if text.strip() else []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ToolFailed(f"{shlex.join(words)} gave no list of objects: {text[:_SHOWN]!r}") from error
    return found


def _reason(output: Sequence[str]) -> str:
    """The line that says what went wrong: the first that Helm or kubectl begin as an error, else the last one."""
    lines = [line.strip() for line in output if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error: ", "error from server"))]
    return (errors or lines[-1:] or [""])[0]
