"""Pieces of an object that are read before they are asked for."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvisy_connectors.object.formats import read_ahead
from nvisy_connectors.object.formats.read_ahead import PIECES, ReadAhead

DATA = bytes(range(256)) * 4


@pytest.fixture(autouse=True, scope="module")
def small_pieces():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(read_ahead, "PIECE_BYTES", 10)
        patched.setattr(read_ahead, "NEAR_BYTES", 15)
        yield


def reading(data):
    """Pieces of `data` from a place on."""
    return lambda start, size: (data[at : at + size] for at in range(start, len(data), size))


def rest(ahead):
    found = b""
    while piece := ahead.next():
        assert len(piece) <= 10
        found += piece
    return found


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(0, 95),
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 100)), max_size=5),
)
def test_pieces_come_in_order_from_wherever_it_goes_on(size, steps):
    data, place = DATA[:size], 0
    with ReadAhead(reading(data), size) as ahead:
        for pieces, to in steps:
            for _ in range(pieces):
                piece = ahead.next()
                assert bytes(piece) == data[place : place + len(piece)]
                assert piece or place >= size
                place += len(piece)
            ahead.seek(to)
            place = to
        assert rest(ahead) == data[place:]
        assert not ahead.next()


def test_no_more_is_read_than_a_few_pieces_ahead():
    asked = []

    def read(start, size):
        for at in range(start, len(DATA), size):
            asked.append(at)
            yield DATA[at : at + size]

    with ReadAhead(read, len(DATA)) as ahead:
        assert asked == []
        for taken in range(1, 20):
            ahead.next()
            time.sleep(0.001)
            assert len(asked) <= taken + PIECES
    assert len(asked) <= 19 + PIECES


def test_what_lies_near_is_read_on_to_and_what_lies_far_is_asked_for():
    asked = []

    def read(start, size):
        asked.append(start)
        return reading(DATA)(start, size)

    with ReadAhead(read, len(DATA)) as ahead:
        ahead.next()
        ahead.seek(25)
        assert bytes(ahead.next()) == DATA[25:30]
        ahead.seek(400)
        assert bytes(ahead.next()) == DATA[400:410]
        ahead.seek(3)
        assert bytes(ahead.next()) == DATA[3:13]
    assert asked == [0, 400, 3]


def test_an_error_is_told_where_its_piece_would_come():
    def read(start, size):
        yield from (DATA[:size], DATA[size : 2 * size])
        raise OSError("gone")

    with ReadAhead(read, len(DATA)) as ahead:
        assert bytes(ahead.next()) + bytes(ahead.next()) == DATA[:20]
        with pytest.raises(OSError, match="gone"):
            ahead.next()


def test_nothing_is_read_any_more_once_it_is_left():
    began, done = threading.Event(), []

    def read(start, size):
        for at in range(start, len(DATA), size):
            if at:
                began.set()
                time.sleep(0.1)
                done.append(at)
            yield DATA[at : at + size]

    with ReadAhead(read, len(DATA)) as ahead:
        ahead.next()
        assert began.wait(5)
    finished = len(done)
    assert finished
    time.sleep(0.15)
    assert len(done) == finished
