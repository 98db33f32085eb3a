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
        yield


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
    with ReadAhead(lambda a, b: data[a:b], size) as ahead:
        for pieces, to in steps:
            for _ in range(pieces):
                piece = ahead.next()
                assert bytes(piece) == data[place : place + 10]
                place += len(piece)
            ahead.seek(to)
            place = to
        assert rest(ahead) == data[place:]
        assert not ahead.next()


def test_no_more_is_read_than_a_few_pieces_ahead():
    asked = []

    def read(start, end):
        asked.append(start)
        return DATA[start:end]

    with ReadAhead(read, len(DATA)) as ahead:
        assert asked == []
        for taken in range(1, 20):
            ahead.next()
            time.sleep(0.001)
            assert len(asked) <= taken + PIECES
    assert len(asked) <= 19 + PIECES


def test_an_error_is_told_where_its_piece_would_come():
    def read(start, end):
        if start == 20:
            raise OSError("gone")
        return DATA[start:end]

    with ReadAhead(read, len(DATA)) as ahead:
        assert bytes(ahead.next()) + bytes(ahead.next()) == DATA[:20]
        with pytest.raises(OSError, match="gone"):
            ahead.next()


def test_nothing_is_read_any_more_once_it_is_left():
    began, done = threading.Event(), []

    def read(start, end):
        if start:
            began.set()
            time.sleep(0.1)
            done.append(start)
        return DATA[start:end]

    with ReadAhead(read, len(DATA)) as ahead:
        ahead.next()
        assert began.wait(5)
    finished = len(done)
    assert finished
    time.sleep(0.15)
    assert len(done) == finished
