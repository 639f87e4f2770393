"""Values with units: what is read back is what was written, and every mistake says what is allowed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.units import (
    OPERATORS,
    parse_limit,
    parse_margin,
    parse_quantity_of,
    parse_rate,
    parse_ratio,
    parse_seconds,
    parse_sweep,
)

AMOUNT = st.floats(min_value=1e-6, max_value=1e9)
IN_MS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "min": 60e3, "h": 3600e3}


@given(AMOUNT, st.sampled_from(sorted(IN_MS)), st.sampled_from(["", " ", "  "]))
def test_a_duration_reads_back_in_every_unit(amount, unit, gap):
    assert math.isclose(parse_quantity_of("ms", f"{amount!r}{gap}{unit}"), amount * IN_MS[unit])
    assert math.isclose(parse_seconds(f"{amount!r}{gap}{unit}"), amount * IN_MS[unit] / 1e3)


@given(AMOUNT, st.sampled_from(list(OPERATORS)))
def test_a_limit_reads_back(amount, op):
    assert parse_limit("tok/s", f"{op} {amount!r} tok/s") == (op, amount)


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        ("ms", "<= 6 s", 6000.0),
        ("ms", "<6s", 6000.0),
        ("tok/s", ">= 1.5 ktok/s", 1500.0),
        ("req/s", ">= 2 rps", 2.0),
        ("ratio", "<= 1 %", 0.01),
        ("ratio", "<= 0", 0.0),
        ("tokens", "<= 1e3", 1000.0),
    ],
)
def test_limits(kind, given, value):
    assert parse_limit(kind, given)[1] == pytest.approx(value)


@pytest.mark.parametrize(
    ("read", "given", "message"),
    [
        (parse_seconds, 5, "5 has no unit; write it as one of: 5 us, 5 µs, 5 ms, 5 s, 5 min, 5 h"),
        (parse_seconds, "5 tok/s", "unknown unit 'tok/s'; write it as one of: 5 us"),
        (parse_seconds, "0 s", "'0 s' must be more than 0"),
        (parse_seconds, "-1 s", "'-1 s' must be more than 0"),
        (parse_seconds, "soon", "'soon' is not a number with a unit, such as '500 ms'"),
        (parse_seconds, None, "None is not a number with a unit"),
        (parse_seconds, True, "True is not a number with a unit"),
        (parse_seconds, "1e999 s", "'1e999 s' is too large"),
        (parse_rate, "5 s", "write it as one of: 5 req/s, 5 requests/s, 5 rps, 5 /s"),
        (parse_rate, 0, "must be more than 0"),
        (parse_rate, math.nan, "is not a number with a unit"),
        (parse_ratio, "5 ms", "write it as one of: 5, 5 %"),
        (parse_margin, "0 %", "must be more than 0"),
        (parse_margin, "-5 %", "must be more than 0"),
        (parse_margin, 5, "5 would be a margin of 500%; write '5 %'"),
    ],
)
def test_mistakes_say_what_was_given_and_what_is_allowed(read, given, message):
    with pytest.raises(ValueError, match=r".") as error:
        read(given)
    assert message in str(error.value)


@pytest.mark.parametrize("given", ["500 ms", "== 5 ms", "<= ms", 500, None, "<= -- 5 ms", ""])
def test_a_limit_is_a_comparison_with_a_number(given):
    with pytest.raises(ValueError, match="is not a limit: a comparison"):
        parse_limit("ms", given)


def test_a_limit_without_a_unit_says_which_there_are():
    with pytest.raises(ValueError, match="'<= 500' has no unit; write it as one of: 500 us"):
        parse_limit("ms", "<= 500")


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("1:256", (1, 2, 4, 8, 16, 32, 64, 128, 256)),
        ("1:100", (1, 2, 4, 8, 16, 32, 64)),
        ("3:3", (3,)),
        ("10:60:10", (10, 20, 30, 40, 50, 60)),
        ("100:500:150", (100, 250, 400)),
        ("0.5:2", (0.5, 1, 2)),
        ([5, 1, 8], (5, 1, 8)),
        ((2.5,), (2.5,)),
    ],
)
def test_sweeps(given, values):
    assert parse_sweep(given) == values


@given(st.floats(1e-3, 1e3), st.floats(1, 1e3), st.integers(0, 50))
def test_a_stepped_sweep_has_both_ends(low, step, count):
    values = parse_sweep(f"{low!r}:{low + count * step!r}:{step!r}")
    assert len(values) == count + 1
    assert values[0] == low
    assert values[-1] == pytest.approx(low + count * step)


@given(st.floats(1e-3, 1e3), st.integers(0, 30))
def test_a_doubling_sweep_has_both_ends(low, doublings):
    values = parse_sweep(f"{low!r}:{low * 2**doublings!r}")
    assert values == tuple(low * 2**n for n in range(doublings + 1))


@pytest.mark.parametrize(
    "given", ["", "5", "a:b", "1:2:3:4", "5:1", "0:4", "-1:4", "1:4:0", "1:4:-1", "1:inf", "nan:2"]
)
def test_what_is_not_a_sweep(given):
    with pytest.raises(ValueError, match=r"is not a sweep"):
        parse_sweep(given)


def test_a_number_is_what_yaml_makes_of_a_bare_sweep():
    with pytest.raises(ValueError, match=r"39010 is not a sweep; write 'min:max' or 'min:max:step' in quotes"):
        parse_sweep(39010)


@pytest.mark.parametrize("given", [[], ["1"], [True], [0], [-1, 1], [math.inf], [math.nan], [None]])
def test_a_list_holds_numbers_above_zero(given):
    with pytest.raises(ValueError, match="list holds numbers above 0"):
        parse_sweep(given)


def test_no_value_twice_and_no_endless_sweep():
    with pytest.raises(ValueError, match="names a value twice"):
        parse_sweep([1, 2, 1.0])
    with pytest.raises(ValueError, match="gives more than 1000 values"):
        parse_sweep("1:1e9:1")
