"""Texts of others in files for spreadsheets."""

from __future__ import annotations

import pytest

from pytest_llmperf.boundary.text import cell


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-1.5", "+3", "-5 %", "-", "-1e-3", "a=b", "", 3, -2.5, None])
def test_numbers_and_words_stay_as_they_are(value: object) -> None:
    assert cell(value) == value


def test_a_cell_obeys_no_terminal() -> None:
    assert cell("\x1b[31mx") == r"\x1b[31mx"
