"""Memory that is read into again and again never changes what was read before."""

import json
import random
from contextlib import aclosing

import pyarrow as pa
import pytest
from bad_lines import BREAKS, good_line, places_of, rejected_in, rows_of, source
from object_records import drain

from nvisy_connectors.object import read_memory
from nvisy_connectors.object.formats.jsonl_rows import line_reader
from nvisy_connectors.object.read_memory import KEPT, ReadMemory

pytestmark = pytest.mark.anyio

LINES = 6_000


@pytest.fixture
def taken(monkeypatch):
    """The addresses of the pieces that were taken, of any size."""
    monkeypatch.setattr(read_memory, "WORTH_BYTES", 1)
    found = []
    take = ReadMemory.take

    def noting(self, size):
        piece = take(self, size)
        found.append(id(piece))
        return piece

    monkeypatch.setattr(ReadMemory, "take", noting)
    return found


@pytest.mark.parametrize("declared", [True, False])
async def test_lines_and_bad_lines_are_as_ever(tmp_path, taken, declared):
    draw = random.Random(11)
    lines, bad = [], {}
    for number in range(1, LINES + 1):
        line = good_line(number)
        if draw.random() < 0.003:
            line = bad[number] = draw.choice(list(BREAKS.values()))(line)
        lines.append(line)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(lines))
    columns = {"id": "int64", "name": "string", "score": "float64"}
    columns["in"] = "struct<tags: list<string>>"
    params = {"columns": columns} if declared else {"jsonl": {"sample_bytes": 50_000}}
    batches = await drain(source(path, batch_bytes=10_000, batch_rows=700, **params))
    assert len(taken) > 2 * path.stat().st_size / 10_000
    assert len(set(taken)) < len(taken) / 2, "nothing was taken again"

    assert {one.position: one.data for one in rejected_in(batches)} == bad
    good = [number for number in range(1, LINES + 1) if number not in bad]
    assert [position for _, position in places_of(batches)] == good
    assert rows_of(batches) == [json.loads(good_line(number)) for number in good]


def test_a_piece_that_is_read_is_left_alone(taken):
    memory = ReadMemory()
    piece = memory.take(100)
    piece[:] = b"x" * 100
    values = pa.Array.from_buffers(pa.uint8(), 100, [None, pa.py_buffer(piece)])
    memory.give_back(piece)
    other = memory.take(100)
    assert other is not piece
    other[:] = b"y" * 100
    assert set(values.to_pylist()) == {ord("x")}

    del values
    memory.give_back(piece)
    assert memory.take(100) is piece


def test_a_piece_has_the_size_that_is_asked_for(taken):
    memory = ReadMemory()
    piece = memory.take(100)
    for size in (40, 400, 0, 7, 100):
        memory.give_back(piece)
        piece = memory.take(size)
        assert len(piece) == size


def test_no_more_is_kept_than_is_on_its_way(taken):
    memory = ReadMemory()
    pieces = [memory.take(100) for _ in range(2 * KEPT)]
    for piece in pieces:
        memory.give_back(piece)
    memory.give_back(b"of a client of its own")
    again = {id(memory.take(100)) for _ in pieces}
    assert len(again & {id(piece) for piece in pieces}) == KEPT

    memory.give_back(pieces[0])
    memory.let_go()
    assert memory.take(100) is not pieces[0]


@pytest.mark.parametrize("batches", [1, 1_000])
async def test_nothing_is_kept_after_a_read(tmp_path, taken, monkeypatch, batches):
    """Neither when it has come to its end nor when nobody wants more."""
    let_go, memories = ReadMemory.let_go, []

    def noting(self):
        memories.append((self, len(self._pieces)))
        let_go(self)

    monkeypatch.setattr(ReadMemory, "let_go", noting)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(map(good_line, range(LINES))))
    columns = {"id": "int64", "name": "string"}
    reader = source(path, batch_bytes=10_000, batch_rows=700, columns=columns)
    async with reader, aclosing(reader.read(None)) as found:
        async for _ in found:
            batches -= 1
            if not batches:
                break
    ((memory, kept),) = memories
    assert kept
    assert not memory._pieces
    schema = pa.schema({"id": pa.int64(), "name": pa.string()})
    assert not line_reader(schema, declared=True)._scratch
