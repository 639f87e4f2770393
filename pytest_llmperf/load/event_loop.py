"""The event loop that measures: its time is real, and nothing that a callback raises is swallowed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVar

from pytest_llmperf import __name__ as OURS
from pytest_llmperf import clock
from pytest_llmperf.errors import LoadError

T = TypeVar("T")
_SAME_S = 1.0
"""Two readings of one clock are closer than this, however busy the machine."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in a loop whose timers go by the system's clock, also where a test has frozen Python's."""
    with real_time() as runner:
        return runner.run(_with_errors_raised(coroutine))


def real_time() -> asyncio.Runner:
    """The runner that `run` uses, for callers that see to `unswallowed` themselves."""
    return asyncio.Runner(loop_factory=_loop)


async def _with_errors_raised(coroutine: Coroutine[Any, Any, T]) -> T:
    with unswallowed():
        return await coroutine


def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.time = clock.monotonic  # type: ignore[method-assign]
    return loop


@contextlib.contextmanager
def unswallowed() -> Iterator[None]:
    """Lets any error of a callback of ours end the running task; asyncio itself would log it and go on.

    An alarm (pytest-timeout's, say) raises in whatever runs just then, and a read that it meets is lost. Other
    callbacks of the loop are the user's. Raises LoadError in a loop whose time a test has frozen.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "awaited in a coroutine"
    _check_time(loop)
    raised: list[BaseException] = []
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if "handle" in context and error and (not isinstance(error, Exception) or _met_ours(error.__traceback__)):
            raised.append(error)
            task.cancel()
        else:
            before(loop, context) if before else loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
    try:
        yield
    except asyncio.CancelledError:
        if not raised:
            raise
    finally:
        loop.set_exception_handler(before)
    if raised:
        task.uncancel()
        raise raised[0]


def _met_ours(trace: TracebackType | None) -> bool:
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == OURS:
            return True
        trace = trace.tb_next
    return False


def _check_time(loop: asyncio.AbstractEventLoop) -> None:
    if abs(loop.time() - clock.monotonic()) > _SAME_S and clock.is_frozen():
        raise LoadError(
            "the event loop's time is not real (freezegun?), so that nothing in it ever times out: measure outside of "
            "frozen time, freeze with `real_asyncio=True`, or use `load_driver.run`, which has a loop of its own"
        )
