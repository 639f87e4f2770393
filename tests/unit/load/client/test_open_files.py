"""The limit of open files: raised as far as a load needs it, and no silent failure where that is not far enough."""

from __future__ import annotations

import os
import resource

import pytest

from pytest_llmperf.errors import ClientError
from pytest_llmperf.load.client.open_files import raise_file_limit


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The soft and the hard limit, as a machine would have them."""
    now = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: now.__setitem__(slice(None), given))
    return now


def test_what_is_enough_stays(limits: list[int]) -> None:
    raise_file_limit(500, required=500)
    assert limits == [1024, 4096]


def test_the_soft_limit_is_raised_as_far_as_needed(limits: list[int]) -> None:
    raise_file_limit(2000, required=2000)
    assert 2000 + len(os.listdir("/dev/fd")) < limits[0] < 2200
    assert limits[1] == 4096


def test_what_is_only_wanted_goes_to_the_hard_limit(limits: list[int]) -> None:
    raise_file_limit(100_000, required=100)
    assert limits == [4096, 4096]


def test_what_is_required_and_not_to_be_had_is_an_error_with_both_numbers(limits: list[int]) -> None:
    with pytest.raises(
        ClientError, match=r"needs 5000 connections at once .*, but the hard limit of open files is 4096"
    ):
        raise_file_limit(5000, required=5000)


def test_no_hard_limit_at_all(limits: list[int]) -> None:
    limits[1] = resource.RLIM_INFINITY
    raise_file_limit(100_000, required=100_000)
    assert limits[0] > 100_000
