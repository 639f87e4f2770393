"""Signals that end a process of ours."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def end_like_ctrl_c() -> None:
    """SIGTERM (a CI job that is cancelled) and SIGHUP (a terminal that is closed) do what Ctrl-C does from now on.

    Whoever handles or ignores one of them already keeps it (nohup), and so does a thread that may set none.
    """
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is signal.SIG_DFL:
                signal.signal(signum, _interrupt)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Raises SIGINT, since asyncio handles that: it cancels the measurement, which then keeps the runs that it has."""
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
