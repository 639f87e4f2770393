"""Names of files: another for every identifier, safe on every system, the same for ever."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.boundary.file_names import file_name

ALIKE = st.text("aA0-_.+/:[] \t\\é\0", max_size=12)
"""What was one name once: they differ in what a file's name cannot hold."""
PARTS = st.lists(
    st.sampled_from(["a", "b", "py", "-", ".", "/", "::", "[", "]", ".py::", "-vs-", "A", " "]), max_size=9
)
IDENTIFIERS = st.one_of(st.text(), ALIKE, PARTS.map("".join), PARTS.map(lambda parts: f"a.py::t[{''.join(parts)}]"))
ANY = st.one_of(IDENTIFIERS, st.text("x", min_size=80, max_size=400))


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("perf/test_a.py::test_b[tp2-short]", "perf.test_a.py.test_b-tp2-short"),
        ("perf-tests/test_a.py::TestB::test_c[tp2-rate-0.5rps]", "perf-tests.test_a.py.TestB.test_c-tp2-rate-0.5rps"),
        ("a.py::t", "a.py.t"),
        ("a.py::t[old-vs-new-short]", "a.py.t-old-vs-new-short"),
        ("a.py::t[old-vs-new-short].old", "a.py.t-old-vs-new-short.old"),
        ("profile", "profile"),
        ("profile-c8", "profile-c8"),
    ],
)
def test_what_needs_no_change_keeps_its_name(identifier, name):
    assert file_name(identifier) == name


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("a.py::t[x/y]", "a.py.t-x.y-12c872af"),
        ("a.py::t[x y]", "a.py.t-x-y-"),
        ("a.py::t[X-Y]", "a.py.t-X-Y-"),
        ("a.py::t[é 日本]", "a.py.t-e-"),
        ("a.py::t[old-vs-new-short.old]", "a.py.t-old-vs-new-short.old-"),
        ("a.py::t[x-0badcafe]", "a.py.t-x-0badcafe-"),
        (".hidden", "hidden-"),
        ("nul", "_nul-"),
        ("a.py::" + "t" * 500, "a.py."),
        ("", ""),
    ],
)
def test_what_is_changed_stays_readable_and_ends_in_a_hash(identifier, name):
    found = file_name(identifier)
    assert found.startswith(name)
    assert re.search(r"(^|-)[0-9a-f]{8}$", found)


def test_a_folder_that_tells_the_beginning_is_left_out():
    assert file_name("a.py::t[x-y]", "a.py::") == "t-x-y"
    one, other = (file_name(f"{file}::t[x y]", f"{file}::") for file in ("a.py", "b.py"))
    assert one.startswith("t-x-y-")
    assert one != other, "the hash is that of the whole identifier"


@given(st.lists(IDENTIFIERS, unique=True, max_size=20))
def test_two_identifiers_never_have_one_file(identifiers):
    assert len({file_name(one) for one in identifiers}) == len(identifiers)


@given(st.lists(PARTS.map("".join), unique=True, max_size=20))
def test_nor_have_two_tests_of_one_file(names):
    """Not even where a file system does not tell capitals apart."""
    found = {file_name(f"a.py::t[{name}]", "a.py::").casefold() for name in names}
    assert len(found) == len(names)


@given(ANY)
def test_every_name_is_safe_short_and_stable(identifier):
    name = file_name(identifier)
    assert re.fullmatch(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]*[A-Za-z0-9_+]|[A-Za-z0-9_+]", name)
    assert len(f"search-{name}.checkpoint.json".encode()) <= 120
    assert name.partition(".")[0].lower() not in ("con", "prn", "aux", "nul", "com1", "lpt9")
    assert file_name(identifier) == name


@given(IDENTIFIERS)
def test_nobody_is_called_like_the_hashed_name_of_another(identifier):
    name = file_name(identifier)
    if re.search(r"(^|-)[0-9a-f]{8}$", name):
        assert file_name(name) != name
