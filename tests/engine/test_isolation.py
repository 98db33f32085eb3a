"""Which records of a refused batch are guilty, and how many calls it costs to find out."""

import math
from typing import Any

import anyio
import pyarrow as pa
import pytest
from counting import batch_of
from hypothesis import given, settings
from hypothesis import strategies as st

from nvisy_dagster.engine.rejection import Rejected, apply_isolating, write_isolating
from nvisy_dagster.sdk import DataError

pytestmark = pytest.mark.anyio


class Refusing:
    """Refuses a batch with a bad number as a whole, and counts its calls."""

    def __init__(self, bad: set[int], most: int = 10**9) -> None:
        self.bad = bad
        self.most = most
        self.calls = 0
        self.taken: list[int] = []

    async def __call__(self, batch: pa.RecordBatch) -> None:
        self.calls += 1
        numbers = batch["n"].to_pylist()
        if len(numbers) > self.most:
            raise DataError("too many", rows={}, tag="too_large")
        if self.bad & set(numbers):
            raise DataError("something in there is bad", rows={})
        self.taken += numbers


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(), n=st.integers(1, 700), way=st.sampled_from([apply_isolating, write_isolating])
)
def test_k_bad_of_n_cost_no_more_calls_than_promised(data: st.DataObject, n: int, way: Any) -> None:
    bad = data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=min(n, 12)))
    refusing = Refusing(bad)
    rejected: list[Rejected] = []
    anyio.run(way, refusing, batch_of(n), rejected.append)
    assert [r.records["n"].to_pylist() for r in rejected] == [[one] for one in sorted(bad)]
    assert refusing.taken == sorted(set(range(n)) - bad)
    assert refusing.calls - 1 <= len(bad) * (math.ceil(math.log2(n)) + 1)


@pytest.mark.parametrize("place", range(8))
async def test_one_bad_of_eight_costs_at_most_four_calls(place: int) -> None:
    refusing = Refusing({place})
    await apply_isolating(refusing, batch_of(8), lambda _: None)
    assert refusing.calls - 1 <= 4


@given(n=st.integers(1, 300), most=st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_what_is_only_too_large_together_is_nobodys_fault(n: int, most: int) -> None:
    refusing = Refusing(set(), most)
    rejected: list[Rejected] = []
    anyio.run(apply_isolating, refusing, batch_of(n), rejected.append)
    assert not rejected
    assert refusing.taken == list(range(n))


async def test_what_a_refusal_made_of_the_others_is_taken_without_another_call() -> None:
    calls: list[int] = []
    made = batch_of(3)

    async def apply(batch: pa.RecordBatch) -> pa.RecordBatch:
        calls.append(batch.num_rows)
        raise DataError("some", rows={3: "three", 5: "five"}, result=made)

    rejected: list[Rejected] = []
    [(taken, result)] = await apply_isolating(apply, batch_of(10), rejected.append)
    assert calls == [10]
    assert [r.records["n"].to_pylist() for r in rejected] == [[3, 5]]
    assert taken["_id"].to_pylist() == [
        one for row, one in enumerate(batch_of(10)["_id"].to_pylist()) if row not in {3, 5}
    ]
    assert result is made


async def test_parts_of_a_refused_batch_may_bring_results_as_well() -> None:
    """The batch is refused as a whole, its parts name their bad rows and bring the rest."""

    async def apply(batch: pa.RecordBatch) -> pa.RecordBatch:
        numbers = batch["n"].to_pylist()
        bad = {row: "odd" for row, number in enumerate(numbers) if number in {1, 6}}
        if len(numbers) > 4:
            raise DataError("too many", rows={}, tag="too_large")
        if bad:
            good = [row for row in range(len(numbers)) if row not in bad]
            raise DataError("some", rows=bad, result=batch.take(pa.array(good, pa.int64())))
        return batch

    rejected: list[Rejected] = []
    taken = await apply_isolating(apply, batch_of(8), rejected.append)
    assert [r.records["n"].to_pylist() for r in rejected] == [[1], [6]]
    assert [n for _, made in taken for n in made["n"].to_pylist()] == [0, 2, 3, 4, 5, 7]
    assert all(ids["_id"].equals(made["_id"]) for ids, made in taken)


async def test_what_a_sink_tells_is_used_as_told() -> None:
    calls: list[int] = []

    async def write(batch: pa.RecordBatch) -> None:
        calls.append(batch.num_rows)
        raise DataError("some", rows={3: "three", 5: "five"}, tag="refused")

    rejected: list[Rejected] = []
    await write_isolating(write, batch_of(10), rejected.append)
    assert calls == [10]
    assert [(r.records["n"].to_pylist(), r.reasons, r.tag) for r in rejected] == [
        ([3, 5], ["three", "five"], "refused")
    ]
