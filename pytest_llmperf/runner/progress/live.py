"""Shows a session's progress: a line that replaces itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_llmperf.runner.progress.eta import CurrentRun, Eta, TimeLeft
from pytest_llmperf.units import counted

_LEAST_S = 5
"""A lower bound of less than this says nothing."""
_SHORTEST = 8
"""Letters of a point's name that are left on the narrowest of terminals."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The progress of the run of a point."""

    test: str
    name: str
    """The point's; of a duet with the server that has its turn."""
    run: int
    """Number of the run, from 1."""
    runs: int
    extra: bool
    """The gate asked for it."""
    done: int
    total: int | None
    """Requests; None of a load that goes by time, which sends as many as it can."""
    failed: int
    elapsed_s: float
    share: float
    """Share of the run that is over, 0..1; 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class Live:
    """The output for progress: none where there is neither `show` nor `say`."""

    show: Callable[[str], None] | None = None
    """Replaces the line shown before; the empty text takes it away. Only a terminal can."""
    say: Callable[[str], None] | None = None
    """Prints a line that stays."""
    every_run: bool = False
    """True if `say` gets a line per run, False if only per point."""
    width: int = 80
    head: str = "llmperf "
    """The beginning of the line that replaces itself."""
    eta: Eta = field(default_factory=Eta)

    def show_run(self, moment: Moment) -> None:
        """Updates the line of a run; called a few times a second while it is made."""
        if self.show is not None:
            self.show(live_text(moment, self.eta, self.width, self.head))

    def starting(self, server: str) -> None:
        """Reports that a server is about to be started, which can take minutes."""
        self.line(f"{self.head}starting {server}")

    def line(self, text: str) -> None:
        """Replaces the line, cut at the terminal's edge: none takes back a line that went over it."""
        if self.show is not None:
            self.show(text[: self.width])

    def clear(self) -> None:
        """Takes the line away that replaces itself."""
        if self.show is not None:
            self.show("")

    def ran(self, test: str, name: str, runs: int, seconds: float) -> None:
        """A run of a point has ended; `runs` are its first ones."""
        self.eta.ran(test, seconds)
        count = self.eta.runs_of(test)
        if self.say is None or not (self.every_run or count == runs):
            return
        self.clear()
        done = f"run {count}/{max(runs, count)} in {duration(seconds)}"
        done = done if self.every_run else f"measured in {counted(runs, 'run')}"
        self.say(f"llmperf: {name} {done}{_so_far(self.eta)}")


@dataclass(frozen=True, slots=True)
class View:
    """The progress display of a run that is being measured."""

    live: Live
    name: str
    """The point's; of a duet with the server that has its turn."""
    begun_s: float
    """Start of the run, in seconds of the monotonic clock."""
    place: int
    """Number of servers that have had their turn in this run."""
    sides: int


def live_text(moment: Moment, eta: Eta, width: int, head: str = "llmperf ") -> str:
    """One line of at most `width` columns; where they are few, what stands before the name goes first, then its end."""
    run = f"run {moment.run}/{moment.runs}{' (one more: the gate is in doubt)' if moment.extra else ''}"
    requests = f"{moment.done} requests" if moment.total is None else f"{moment.done}/{moment.total} requests"
    failed = f"{moment.failed} failed" if moment.failed else ""
    left = remaining(eta.left(CurrentRun(moment.test, moment.elapsed_s, moment.share)))
    rest = ", ".join(part for part in (run, requests, failed, left) if part)
    for start in (*_heads(eta), head, "llmperf "):
        text = f"{start}{moment.name} {rest}"
        if len(text) <= width:
            return text
    room = max(_SHORTEST, width - len(f"llmperf … {rest}"))
    return f"llmperf {moment.name[:room]}… {rest}"[:width]


def _heads(eta: Eta) -> tuple[str, ...]:
    if len(eta.works) < 2:
        return ()
    (runs, all_runs), (points, all_points) = eta.runs, eta.points
    return (
        f"llmperf {points}/{all_points} points, {runs}/{all_runs} runs: ",
        f"llmperf {points}/{all_points} points, ",
    )


def _so_far(eta: Eta) -> str:
    (points, all_points), (runs, all_runs) = eta.points, eta.runs
    left = remaining(eta.left())
    return f"; {points}/{all_points} points, {runs}/{all_runs} runs{f', {left}' if left else ''}"


def remaining(left: TimeLeft) -> str:
    """`about 4 min left`; empty where nothing is known, or nothing is left."""
    if left.seconds < (1 if left.whole else _LEAST_S):
        return ""
    return f"{'about' if left.whole else 'at least'} {duration(left.seconds)} left"


def duration(seconds: float) -> str:
    """A time as people say it: `4.1 s`, `35 s`, `4 min`, `1 h 40 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
