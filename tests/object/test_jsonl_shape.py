"""Which lines look otherwise than the rows of a read: a cheap suspicion, confirmed line by line."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvisy_connectors.object.folder import ObjectInfo
from nvisy_connectors.object.formats import jsonl_shape
from nvisy_connectors.object.formats.jsonl_shape import Shapes
from nvisy_connectors.object.formats.line_blocks import Block
from nvisy_connectors.object.formats.line_table import LineTable


def table(made: list[bytes]) -> LineTable:
    data = bytearray(b"\n").join(made)
    info = ObjectInfo(key="x", size=len(data), version="1", modified=None)
    return LineTable(Block(info, 0, len(data), 1, data))


def suspects(shapes: Shapes, made: list[bytes], bad: set[int] = frozenset()) -> list[int]:
    """The lines that are confirmed one by one."""
    asked: list[int] = []

    def confirm(index: int) -> bool:
        asked.append(index)
        return index not in bad

    lines = table(made)
    left = shapes.alike(lines, np.arange(lines.count), confirm)
    assert set(range(lines.count)) - set(left.tolist()) == bad & set(asked)
    return asked


def line(number: int, **others: object) -> bytes:
    value = {"id": number % 90 + 10, "name": f"n: {number}", "tags": ["a"], "in": {"x": 0.5}}
    return json.dumps(value | others).encode()


def taught() -> Shapes:
    shapes = Shapes()
    suspects(shapes, [line(number) for number in range(400)])
    return shapes


DAMAGE = {
    "type": line(50, id="x"),
    "boolean": line(50, id=True),
    "text": line(50, name=7),
    "list": line(50, tags="a"),
    "in list": line(50, tags=[["a"]]),
    "nested": line(50, **{"in": {"x": "y"}}),
    "new": line(50, more=1),
    "long": line(50, id=12345678901234567890),
    "exponent": line(50).replace(b"0.5", b"1e999"),
    "big exponent": line(50).replace(b"0.5", b"-1.5E+0400"),
    "decimal": line(50, id=1.5),
    "colon": line(50).replace(b'": ', b'" ', 1),
    "open": line(50)[:-1],
    "two": line(50) * 2,
    "oops": b"{oops}",
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("place", [1, 50, 98])
def test_damage_is_suspected_and_nothing_else(name, place):
    made = [line(number) for number in range(100)]
    made[place] = DAMAGE[name]
    assert place in (asked := suspects(taught(), made, {place}))
    # So near to the ends of a block that not all is looked at: these are confirmed.
    assert set(asked) <= {0, place, 99}


def test_what_was_confirmed_is_not_suspected_again():
    shapes = taught()
    other = line(7, id=123456)
    made = [line(number) for number in range(100)]
    assert 40 in suspects(shapes, [*made[:40], other, *made[40:]])
    assert 60 not in suspects(shapes, [*made[:60], other, *made[60:]])
    # What was found bad is.
    for _ in range(2):
        assert 60 in suspects(shapes, [*made[:60], line(7, id="x"), *made[60:]], {60})


def test_lines_that_are_all_different_are_soon_let_be():
    shapes = Shapes()
    asked = 0
    for block in range(20):
        made = [
            json.dumps({f"{block} {n} {f}": n for f in range(n % 7)}).encode() for n in range(1000)
        ]
        asked += len(suspects(shapes, made))
    assert jsonl_shape.LESSONS < asked < 2 * jsonl_shape.MOST_LESSONS


@pytest.mark.parametrize("digits", range(1, 30))
@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("rest", ["", ".5", ".5e-7", ".12345678901234567", "e5"])
def test_numbers_by_length(digits, sign, rest):
    text = f"{sign}{'7' * digits}{rest}"
    data = f'{" " * 40}{text}, "more": [1, 2, 3], "and": "some text that is long enough"}}'.encode()
    (kind,) = jsonl_shape._number_kinds(data, np.array([40])).tolist()
    plain = digits + len(sign)
    if not rest:
        assert kind == (jsonl_shape._INTEGER + plain if plain < 19 else jsonl_shape._LONG)
    elif plain < 8:
        assert kind == jsonl_shape._DECIMAL
    assert 0 < kind < 64


@given(made=st.lists(st.binary(max_size=60).map(lambda text: text.replace(b"\n", b"")), min_size=1))
def test_any_bytes_are_looked_at(made):
    asked = suspects(taught(), made)
    assert len(asked) == len(set(asked))


def test_lines_at_the_ends_of_a_block_teach_nothing():
    shapes = taught()
    for _ in range(20):
        suspects(shapes, [line(number) for number in range(10)])
    short = b'{"tags": ["a"], "in": {"x": 0.5}}'
    assert 5 in suspects(shapes, [*(line(n) for n in range(5)), short, line(7), line(8)], {5})
