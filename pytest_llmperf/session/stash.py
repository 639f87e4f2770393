"""The keys of a pytest session's state. Imported by every pytest run, so it imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmperf.session.command_line import all_options, ci_variable

if TYPE_CHECKING:
    from pytest_llmperf.runner.progress.live import Live
    from pytest_llmperf.session.state import Preparation, PytestSession

PREPARED: pytest.StashKey[Preparation] = pytest.StashKey()
SESSION: pytest.StashKey[PytestSession] = pytest.StashKey()


def known_session(config: pytest.Config) -> PytestSession | None:
    """The session; None where no llmperf test was collected, or its plan is wrong."""
    return config.stash.get(SESSION, None)


def session_of(config: pytest.Config) -> PytestSession:
    """The session, which exists once collection is over. UsageError where no marker asked for it."""
    if SESSION not in config.stash:
        raise pytest.UsageError("a fixture of pytest-llmperf needs @pytest.mark.llmperf(plan='….yaml') on the test")
    return config.stash[SESSION]


def preparation_of(config: pytest.Config) -> Preparation:
    """The state with which the session begins; made when the first llmperf test is collected."""
    prepared = config.stash.get(PREPARED, None)
    if prepared is None:
        from pytest_llmperf.session.state import prepare

        prepared = prepare(all_options(config), config.rootpath, config.invocation_params.dir)
        config.stash[PREPARED] = prepared
    return prepared


def set_properties(item: pytest.Item, found: Sequence[tuple[str, Any]]) -> None:
    """Gives a test JUnit properties, in the place of all those of an earlier attempt (pytest-rerunfailures)."""
    others = [one for one in item.user_properties if not one[0].startswith("llmperf.")]
    item.user_properties[:] = [*others, *found]


def encoding_of(writer: object) -> str:
    """Encoding of a terminal; pytest's writer does not give it, and writes escapes for the whole text instead."""
    return getattr(getattr(writer, "_file", None), "encoding", None) or "utf-8"


def is_worker(config: pytest.Config) -> bool:
    """True if this process is one of pytest-xdist's workers."""
    return hasattr(config, "workerinput")


def live_of(config: pytest.Config) -> Live:
    """On a terminal a line that is rewritten, elsewhere and in CI a plain one per point; with -v one per run."""
    from pytest_llmperf.runner.progress.live import Live

    reporter, verbosity = config.pluginmanager.get_plugin("terminalreporter"), config.get_verbosity()
    if reporter is None or verbosity < 0:
        return Live()
    rewritable = reporter.isatty and not ci_variable() and os.environ.get("TERM") != "dumb"
    capture = config.pluginmanager.get_plugin("capturemanager")
    around = capture.global_and_fixture_disabled if capture else contextlib.nullcontext
    width = config.get_terminal_writer().fullwidth - 1

    def show(text: str) -> None:
        with around():
            reporter.ensure_newline()
            reporter.rewrite(text.ljust(width))
            if not text:
                reporter.rewrite("")  # what comes next begins at the left
            reporter.flush()

    def say(text: str) -> None:
        with around():
            reporter.ensure_newline()
            reporter.write_line(text)

    return Live(
        show=show if rewritable else None,
        say=say if verbosity > 0 or not rewritable else None,
        every_run=verbosity > 0,
        width=width,
    )
