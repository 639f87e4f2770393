"""What a session says while it measures: a line that replaces itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_llmperf.runner.progress.outlook import Left, Now, Outlook

_LEAST_S = 5
"""A lower bound of less than this says nothing."""
_SHORTEST = 8
"""Letters of a point's name that are left on the narrowest of terminals."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How far the run of a point is."""

    test: str
    name: str
    """The point's; of a duet with the server that has its turn."""
    run: int
    """From 1."""
    runs: int
    extra: bool
    """The gate asked for it."""
    done: int
    total: int | None
    """Requests; None of a load that goes by time, which sends as many as it can."""
    failed: int
    elapsed_s: float
    share: float
    """Of the run that is over, 0..1; 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class Live:
    """Where progress goes: nowhere where there is neither `show` nor `say`."""

    show: Callable[[str], None] | None = None
    """Replaces the line shown before; the empty text takes it away. Only a terminal can."""
    say: Callable[[str], None] | None = None
    """Prints a line that stays."""
    every_run: bool = False
    """Whether `say` is told of each run, or only of each point."""
    width: int = 80
    outlook: Outlook = field(default_factory=Outlook)

    def tell(self, moment: Moment) -> None:
        """A few times a second, while a run is made."""
        if self.show is not None:
            self.show(live_text(moment, self.outlook, self.width))

    def starting(self, server: str) -> None:
        """Before a server is started, which can take minutes."""
        self.line(f"llmperf starting {server}")

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
        self.outlook.ran(test, seconds)
        count = self.outlook.runs_of(test)
        if self.say is None or not (self.every_run or count == runs):
            return
        self.clear()
        if self.every_run:
            self.say(run_text(name, count, max(runs, count), seconds, self.outlook))
        else:
            self.say(point_text(name, runs, self.outlook))


@dataclass(frozen=True, slots=True)
class View:
    """Where a run that is being measured shows how far it is."""

    live: Live
    name: str
    """The point's; of a duet with the server that has its turn."""
    begun_s: float
    """When the run was begun, by the monotonic clock."""
    place: int
    """How many servers have had their turn in this run."""
    sides: int


def live_text(moment: Moment, outlook: Outlook, width: int) -> str:
    """One line of at most `width` columns; where they are few, the session's counts go first, then the name's end."""
    run = f"run {moment.run}/{moment.runs}{' (one more: the gate is in doubt)' if moment.extra else ''}"
    requests = f"{moment.done} requests" if moment.total is None else f"{moment.done}/{moment.total} requests"
    failed = f"{moment.failed} failed" if moment.failed else ""
    left = remaining(outlook.left(Now(moment.test, moment.elapsed_s, moment.share)))
    rest = ", ".join(part for part in (run, requests, failed, left) if part)
    for head in _heads(outlook):
        text = f"{head}{moment.name} {rest}"
        if len(text) <= width:
            return text
    room = max(_SHORTEST, width - len(f"llmperf … {rest}"))
    return f"llmperf {moment.name[:room]}… {rest}"[:width]


def _heads(outlook: Outlook) -> tuple[str, ...]:
    if len(outlook.works) < 2:
        return ("llmperf ",)
    (runs, all_runs), (points, all_points) = outlook.runs, outlook.points
    return (
        f"llmperf {points}/{all_points} points, {runs}/{all_runs} runs: ",
        f"llmperf {points}/{all_points} points, ",
        "llmperf ",
    )


def run_text(name: str, run: int, runs: int, seconds: float, outlook: Outlook) -> str:
    """A run that has ended."""
    return f"llmperf: {name} run {run}/{runs} in {duration(seconds)}{_so_far(outlook)}"


def point_text(name: str, runs: int, outlook: Outlook) -> str:
    """A point that has its first runs."""
    return f"llmperf: {name} measured in {runs} run{'s' if runs != 1 else ''}{_so_far(outlook)}"


def _so_far(outlook: Outlook) -> str:
    (points, all_points), (runs, all_runs) = outlook.points, outlook.runs
    left = remaining(outlook.left())
    return f"; {points}/{all_points} points, {runs}/{all_runs} runs{f', {left}' if left else ''}"


def remaining(left: Left) -> str:
    """`about 4 min left`; empty where nothing is known, or nothing is left."""
    if left.seconds < (1 if left.whole else _LEAST_S):
        return ""
    return f"{'about' if left.whole else 'at least'} {duration(left.seconds)} left"


def duration(seconds: float) -> str:
    """As people say it: `4.1 s`, `35 s`, `4 min`, `1 h 40 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
