"""Histograms: nothing is lost, bins are as narrow as they say, and a picture shows what is rare."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.metrics.stats.histogram import histogram, lower_edge, merged, picture

VALUES = st.lists(st.floats(1e-5, 1e7), max_size=50)


@given(values=VALUES)
def test_every_value_is_counted_in_a_bin_that_holds_it(values):
    found = histogram(values)
    assert sum(found.values()) == len(values)
    assert list(found) == sorted(found)
    for value in values:
        (number,) = histogram([value])
        assert lower_edge(number) == pytest.approx(value, rel=0.0041)
        assert number in found


@given(one=VALUES, other=VALUES)
def test_merging_is_counting_all(one, other):
    assert merged([histogram(one), histogram(other)]) == histogram([*one, *other])


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_what_has_no_logarithm_is_counted_in_the_lowest_bin(value):
    assert histogram([value]) == histogram([1e-6])


def test_a_rare_stall_is_seen():
    drawn = picture(histogram([10.0] * 1000 + [10.05] * 500 + [50.0]), columns=20)
    assert len(drawn) == 20
    assert (drawn[0], drawn[-1]) == ("█", "▁")
    assert drawn[1:-1].isspace()


def test_pictures_of_one_value_and_of_none():
    assert picture(histogram([3.0, 3.0])) == "█"
    assert picture({}) == ""
