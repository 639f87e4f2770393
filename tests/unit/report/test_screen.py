"""What others wrote does nothing on a terminal, and every terminal shows what it can."""

import io

import pytest

from pytest_llmperf.boundary.text import READABLE
from pytest_llmperf.report.text import Name, Screen, left, make_table


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


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("tp4.pp2_fast-short-c8", ["tp4.pp2_", "fast-", "short-c8"]),
        ("short-c8", ["short-c8"]),
        ("quantization", ["quantizat", "ion"]),
    ],
)
def test_a_name_is_broken_between_its_words(name, lines):
    table = make_table("", "point", *left("verdict"))
    table.add_row(Name(name), "P" * 67)
    file = io.StringIO()
    Screen(file=file, width=80).print(table)
    assert [line[:10].strip() for line in file.getvalue().splitlines()[3:] if line.strip()] == lines
