"""The suite that the plugin is tested on."""

from __future__ import annotations

import gc

import pytest
from perf_suite import Suite


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    return Suite(pytester)


@pytest.fixture(autouse=True)
def any_machine_will_do(any_machine: None) -> None:
    """For the command line, which runs in this process; suites have a conftest.py that says so."""


def pytest_collection_finish() -> None:
    """The load driver collects garbage before each run: what is imported here is none, and need not be looked at."""
    gc.collect()
    gc.freeze()
