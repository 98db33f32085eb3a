"""What was written as CSV is what a reader makes of it that is told nothing."""

import pyarrow as pa
import pytest
from bad_lines import rejected_in, rows_of
from csv_tables import table, write
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from object_records import drain

from nvisy_connectors.object.formats.csv_writer import CsvWriter
from nvisy_connectors.object.local import LocalSource, LocalSourceParams
from nvisy_connectors.object.params import WriteParams

pytestmark = pytest.mark.anyio

texts = st.one_of(
    st.sampled_from(["'a'", "'a, b'", "x;y", "x\ty", "p|q", "\ufeffx", 'say \\"hi\\"', "a\\", ""]),
    st.text(st.sampled_from("ab'\",;|\t\r\n\\\ufeff #é"), max_size=6),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=st.integers(1, 3).flatmap(
        lambda width: st.lists(st.tuples(*[texts] * width), min_size=1, max_size=8)
    ),
    names=st.permutations(["a", "'b'", "\ufeffc", "d;e", "f g"]),
    quoting=st.sampled_from(["needed", "all"]),
    bom=st.booleans(),
)
@example(values=[("'a'",), ("'b'",)], names=["a", "b", "c"], quoting="needed", bom=False)
@example(values=[("x;y",), ("z;w",)], names=["a", "b", "c"], quoting="needed", bom=False)
@example(values=[("\ufeffx", "y")], names=["\ufeffa", "b", "c"], quoting="needed", bom=True)
async def test_texts_come_back(tmp_path, values, names, quoting, bom):
    columns = dict(zip(names, zip(*values, strict=True), strict=False))
    batch = pa.RecordBatch.from_pydict(columns)
    options = {"neutralize_formulas": False, "quoting": quoting, "bom": bom}
    path = tmp_path / "x.csv"
    writer = CsvWriter(path, batch.schema, WriteParams(format="csv", csv=options))
    writer.write(batch)
    writer.close()
    params = LocalSourceParams(path=str(path), format="csv")
    reader = LocalSource(params, node_id="read")
    reader.bad_records = "reject"
    batches = await drain(reader)
    assert rejected_in(batches) == []
    assert [tuple(row.values()) for row in rows_of(batches)] == values
    assert list(rows_of(batches)[0]) == batch.schema.names


@pytest.mark.parametrize("batch_bytes", [8, 8 << 20])
async def test_a_mark_that_is_no_beginning_of_a_file_is_text(tmp_path, batch_bytes):
    path = write(tmp_path / "x.csv", "a,b\n\ufeffx,1\n\ufeffy,2\n\ufeff,3\n".encode())
    found, _ = await table(path, columns=None, batch_bytes=batch_bytes)
    assert found == [{"a": "\ufeffx", "b": 1}, {"a": "\ufeffy", "b": 2}, {"a": "\ufeff", "b": 3}]
