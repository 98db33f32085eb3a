"""How removals travel: merged, after the data of their epoch, before its barrier."""

import anyio
import pyarrow as pa
import pytest

from nvisy_dagster.engine.channel import Channel, Inlet
from nvisy_dagster.engine.message import END, Barrier, Removal

pytestmark = pytest.mark.anyio


def ids(*numbers):
    return pa.array([bytes([n]) * 16 for n in numbers], pa.binary(16))


def numbers(array):
    return sorted(value[0] for value in array.to_pylist())


def test_what_failed_anywhere_stays():
    here = Removal.of([ids(1, 2), ids(2, 3)], [ids(3)])
    there = Removal.of([ids(1, 4)], [ids(4)])
    assert numbers(Removal.merged([here, there]).effective()) == [1, 2]
    assert numbers(Removal.of([]).effective()) == []


def test_it_is_the_same_after_a_materialized_edge():
    removal = Removal.of([ids(1, 2)], [ids(2, 9)])
    again = Removal.from_batch(removal.to_batch())
    assert numbers(again.root_ids) == [1, 2]
    assert numbers(again.kept) == [2, 9]


async def test_an_inlet_holds_it_until_the_barrier_of_all_channels():
    rows = pa.record_batch({"x": [1]})
    first, second = Channel(), Channel()
    with anyio.fail_after(60):
        for message in (Removal.of([ids(1)]), rows, Barrier(1), Removal.of([ids(3)]), END):
            await first.send(message)
        for message in (rows, Removal.of([ids(2)], [ids(1)]), Barrier(1), rows, END):
            await second.send(message)
        found = [message async for message in Inlet([first, second]).messages()]
    kinds = [type(message).__name__ for message in found]
    assert kinds == ["RecordBatch", "RecordBatch", "Removal", "Barrier", "RecordBatch", "Removal"]
    assert numbers(found[2].effective()) == [2]
    assert numbers(found[5].effective()) == [3]
