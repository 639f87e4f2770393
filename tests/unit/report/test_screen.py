"""What others wrote does nothing on a terminal, and every terminal shows what it can."""

import io

import pytest

from pytest_llmperf.boundary.text import READABLE
from pytest_llmperf.report.text import Screen, left, make_table


def printed(text, encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding, READABLE, newline="")
    table = make_table("", *left("head"))
    table.add_row(text)
    Screen(file=file, width=80).print(text, table, soft_wrap=True)
    file.seek(0)
    return file.read()


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b[2Jx", "\\x1b[2Jx"), ("[/x]abc", "[/x]abc"), (":bomb:", ":bomb:"), ("a\u202eb", "a\\u202eb")],
)
def test_texts_of_others(text, shown):
    assert printed(text).count(shown) == 2
    assert "\x1b" not in printed(text)


def test_a_terminal_without_utf_8():
    assert "5 x 3, <= 2 ms?" in printed("5 × 3, ≤ 2 ms😀", "ascii")
