"""docs/reliability.md has every row."""

from table import PAGE, page


def test_page_is_up_to_date():
    text = PAGE.read_text()
    assert page(text) == text, "write it anew: .venv/bin/python tests/faults/table.py"
