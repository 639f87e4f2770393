"""Two servers of a plan that are held against each other: which ones, and whether they may be. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.telemetry.gpu import Gpu


@dataclass(frozen=True, slots=True)
class Duet:
    """The old server and the new one, to be up at the same time and measured in turns."""

    a: ServerConfig
    """The reference."""
    b: ServerConfig
    """The new server, which is judged."""

    def __post_init__(self) -> None:
        """ValueError when they answer differently, so that their speed says nothing."""
        then, now = self.a.output_args, self.b.output_args
        names = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
        if names:
            differ = [f"{name} is {then.get(name)!r} and {now.get(name)!r}" for name in names]
            raise ValueError(
                f"{self.a.name} and {self.b.name} differ in arguments that change the model's output, so their speed "
                f"cannot be compared: {'; '.join(differ)}"
            )

    @property
    def name(self) -> str:
        """`old-vs-new`: part of test ids, and a word for `-k`."""
        return f"{self.a.name}-vs-{self.b.name}"

    def too_few_gpus(self, gpus: Sequence[Gpu]) -> str | None:
        """A sentence on the GPUs that this machine lacks to have both up at once; None when it has enough."""
        needed = [self.a.local_gpus, self.b.local_gpus]
        if sum(needed) <= len(gpus):
            return None
        return (
            f"{self.a.name} and {self.b.name} up at the same time need {needed[0]} + {needed[1]} GPUs, "
            f"found {len(gpus)}"
        )


def sides(asked: ServerConfig | Duet) -> tuple[ServerConfig, ...]:
    """The servers to measure on; the one that is judged comes last."""
    return (asked.a, asked.b) if isinstance(asked, Duet) else (asked,)


def configurations(asked: Iterable[ServerConfig | Duet]) -> dict[ServerConfig, None]:
    """Every server once, in order, those of duets too."""
    return dict.fromkeys(config for one in asked for config in sides(one))
