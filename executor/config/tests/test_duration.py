"""Durations and sizes: stout's grammar, exactly."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.config.units import (
    MAX_NANOSECONDS,
    NANOSECONDS,
    format_duration,
    parse_duration,
    parse_size,
)


@given(st.integers(0, MAX_NANOSECONDS))
def test_what_is_printed_is_parsed_to_the_same(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@given(st.integers(0, 15_000), st.integers(0, 999_999), st.sampled_from(sorted(NANOSECONDS)))
def test_decimals_are_exact(whole: int, fraction: int, unit: str) -> None:
    expected = (whole * 10**6 + fraction) * NANOSECONDS[unit] // 10**6
    assert parse_duration(f"{whole}.{fraction:06}{unit}") == expected


@given(st.text(max_size=80))
def test_any_text_is_a_duration_or_a_sentence(text: str) -> None:
    try:
        assert 0 <= parse_duration(text) <= MAX_NANOSECONDS
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5secs", 5),
        ("1mins", 60),
        ("15mins", 900),
        ("1.5mins", 90),
        ("0ns", 0),
        ("1weeks", 604800),
        (".5secs", 0.5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds * 10**9


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5s",
        "5sec",
        "5min",
        "secs",
        "abc",
        "-5secs",
        "+5secs",
        "5 secs",
        "5secs ",
        "1e3secs",
        ".secs",
        "5SECS",
        "\u0665secs",
        "1.2.3secs",
        "16000weeks",
        "9" * 70 + "secs",
        "inf",
        "nansecs",
    ],
)
def test_what_mesos_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text)[:10])):
        parse_duration(text)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0ns"),
        (90 * 10**9, "90secs"),
        (60 * 10**9, "1mins"),
        (1500 * 10**6, "1500ms"),
        (2 * 10**9, "2secs"),
        (7 * 86400 * 10**9, "1weeks"),
        (1, "1ns"),
    ],
)
def test_durations_are_printed_as_agents_do(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


def test_sizes() -> None:
    assert parse_size("10MB") == 10 * 2**20
    assert parse_size("1.5KB") == 1536
    with pytest.raises(ValueError, match="KB"):
        parse_size("10mb")
