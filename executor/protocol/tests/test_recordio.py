"""RecordIO: any stream, cut anywhere."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.protocol import FramingError, RecordIODecoder, frame
from executor.protocol.recordio import MAX_LENGTH_DIGITS


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """Records, and their stream in pieces."""
    records = draw(st.lists(st.binary(max_size=300), max_size=8))
    stream = b"".join(map(frame, records))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    edges = [0, *cuts, len(stream)]
    return records, [stream[a:b] for a, b in itertools.pairwise(edges)]


@given(cut_streams())
def test_records_come_out_as_they_went_in_wherever_the_stream_is_cut(
    streams: tuple[list[bytes], list[bytes]],
) -> None:
    records, pieces = streams
    decoder = RecordIODecoder()
    found = [record for piece in pieces for record in decoder.feed(piece)]
    assert found == records
    assert not decoder.inside_record


@given(st.lists(st.binary(max_size=64), max_size=10))
def test_garbage_is_records_or_an_error_but_never_a_hang_or_another_exception(pieces: list[bytes]) -> None:
    decoder = RecordIODecoder(max_record=1000)
    try:
        for piece in pieces:
            for record in decoder.feed(piece):
                assert len(record) <= 1000
    except FramingError:
        with pytest.raises(FramingError):
            decoder.feed(b"")


@pytest.mark.parametrize(
    "head",
    [
        b"12x\n",
        b"-1\n",
        b"+1\n",
        b" 1\n",
        b"1 \n",
        b"\n",
        b"0x10\n",
        b"1" * 30,
        b"1" * 21,
        "\u0661\n".encode(),
    ],
)
def test_bad_lengths_are_refused_as_soon_as_they_show(head: bytes) -> None:
    decoder = RecordIODecoder()
    with pytest.raises(FramingError):
        decoder.feed(head)


def test_the_longest_length_is_waited_for_and_then_too_large() -> None:
    decoder = RecordIODecoder()
    assert decoder.feed(b"9" * MAX_LENGTH_DIGITS) == []
    with pytest.raises(FramingError, match="larger than"):
        decoder.feed(b"\n")


def test_a_record_over_the_limit_is_refused_before_it_is_read() -> None:
    decoder = RecordIODecoder(max_record=10)
    assert decoder.feed(frame(b"x" * 10)) == [b"x" * 10]
    with pytest.raises(FramingError, match="11 bytes"):
        decoder.feed(b"11\n")


def test_records_before_a_bad_length_are_not_lost() -> None:
    with pytest.raises(FramingError) as raised:
        RecordIODecoder().feed(frame(b"one") + frame(b"") + b"two")
    assert raised.value.records == [b"one", b""]


def test_it_knows_whether_an_end_now_would_cut_a_record() -> None:
    decoder = RecordIODecoder()
    for piece, inside in ((b"", False), (b"1", True), (b"\n", True), (b"x", False)):
        decoder.feed(piece)
        assert decoder.inside_record is inside
