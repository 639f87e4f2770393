"""The mode `optuna`: configurations proposed by its TPE sampler, which gets scores and broken limits."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

from pytest_llmperf.errors import MissingRequirement
from pytest_llmperf.search.strategy.contest import Contest
from pytest_llmperf.search.strategy.space import Position, Space

TRIALS = 40
"""Configurations that it measures unless the plan says otherwise."""
_REPEATS = 20
"""Proposals in a row that were measured before, after which it has nothing more to say."""


def optuna_missing() -> str | None:
    """The instruction to install optuna where it is missing; None where it is installed."""
    if importlib.util.find_spec("optuna") is not None:
        return None
    return "mode: optuna needs optuna: pip install 'pytest-llmperf[search]' (mode: quick needs nothing)"


def tpe(space: Space, contest: Contest, seed: int) -> None:
    """Tries proposals until the contest is out of trials, or only known ones are proposed. Raises MissingRequirement
    without optuna.

    The first proposal is the middle. A repeated one is answered from memory.
    """
    study, again = _study(seed), 0
    study.enqueue_trial(dict(zip(_names(space), space.centre(), strict=True)))
    while again < _REPEATS and len(contest.held) < len(space):
        asked = study.ask()
        position = _position(space, asked)
        again = again + 1 if position in contest.held else 0
        contest.measure(position)
        _report(study, asked, contest, position)


def _study(seed: int) -> Any:
    if problem := optuna_missing():
        raise MissingRequirement(problem)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    return optuna.create_study(direction="maximize", sampler=sampler)


def _names(space: Space) -> list[str]:
    return [str(axis) for axis in range(len(space.sizes))]


def _position(space: Space, asked: Any) -> Position:
    """Axes without an order are categories to the sampler."""
    return tuple(
        asked.suggest_int(name, 0, size - 1) if order else asked.suggest_categorical(name, list(range(size)))
        for name, size, order in zip(_names(space), space.sizes, space.ordered, strict=True)
    )


def _report(study: Any, asked: Any, contest: Contest, position: Position) -> None:
    import optuna

    found = contest.assessment(position)
    asked.set_constraint("excess", found.excess)
    if found.standing in ("ok", "broken"):
        study.tell(asked, found.level.value if found.level else 0.0)
    else:
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
