"""Expressions over parts of batches, whose nested values begin in the middle of their memory."""

import pyarrow as pa
import pytest
from tabular_batches import batch_of
from tabular_calls import mapped

from nvisy_connectors.tabular import limits
from nvisy_connectors.tabular.database import select

INNER = pa.array([
    None if n % 5 == 0 else {"z": n, "w": None if n % 7 == 0 else {"k": f"k{n}"}} for n in range(64)
])
OUTER = pa.StructArray.from_arrays([pa.array(range(64), pa.int32()), INNER], names=["n", "q"])
PART = OUTER.slice(9, 40)
SEAMS = pa.array(range(0, 41, 2), pa.int32())
WIDER = pa.struct([pa.field("n", pa.int64()), OUTER.type.field("q")])


@pytest.mark.parametrize(
    "values",
    [
        PART,
        PART.field("q"),
        PART.cast(WIDER),
        pa.StructArray.from_arrays(PART.flatten(), names=["n", "q"]),
        pa.ListArray.from_arrays(SEAMS, PART),
        pa.LargeListArray.from_arrays(SEAMS.cast(pa.int64()), PART.field("q")).slice(3),
        pa.FixedSizeListArray.from_arrays(PART, 2),
        pa.FixedSizeListArray.from_arrays(OUTER, 2).slice(3),
        pa.MapArray.from_arrays(SEAMS, pa.array([str(n) for n in range(40)]), PART).slice(2),
    ],
    ids=lambda values: str(values.type)[:40],
)
def test_a_part_of_a_batch_has_its_own_values(values: pa.Array, monkeypatch: pytest.MonkeyPatch):
    batch = batch_of({"v": values})
    assert mapped(batch, set={"same": "v"}).column("same").to_pylist() == values.to_pylist()
    later = batch.slice(4, 11)
    assert mapped(later, set={"same": "v"}).column("same").to_pylist() == values[4:15].to_pylist()
    monkeypatch.setattr(limits, "VECTOR_BYTES", 64)
    few = limits.in_small_vectors(pa.record_batch({"v": values}))
    assert select("v", few).column(0).to_pylist() == values.to_pylist()
