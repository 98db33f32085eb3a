"""Parquet files that cannot be read, or not all of them: their good records are."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_lines import rejected_in, rows_of, source
from object_records import drain

pytestmark = pytest.mark.anyio


def parquet(rows: int, start: int = 0) -> bytes:
    file = io.BytesIO()
    table = pa.table({"n": pa.array(range(start, start + rows)), "t": ["x" * 50] * rows})
    pq.write_table(table, file, row_group_size=100, compression="zstd", use_dictionary=False)
    return file.getvalue()


async def test_a_corrupt_row_group_is_one_bad_record(tmp_path):
    data = bytearray(parquet(1000))
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(4).column(0)
    for place in range(group.data_page_offset + 30, group.data_page_offset + 90):
        data[place] ^= 0xFF
    (tmp_path / "a.parquet").write_bytes(data)
    (tmp_path / "b.parquet").write_bytes(b"not a parquet file at all")
    (tmp_path / "c.parquet").write_bytes(parquet(10, start=1000))
    batches = await drain(source(tmp_path, "parquet", batch_rows=30))
    first, second = rejected_in(batches)
    assert (first.position, first.data, first.tag) == (400, None, "format")
    assert "rows 400 to 499" in first.reason
    assert (second.uri[-9:], second.position) == ("b.parquet", None)
    numbers = [row["n"] for row in rows_of(batches)]
    assert numbers == [*range(400), *range(500, 1010)]
    for place, batch in enumerate(batches):
        rest = await drain(source(tmp_path, "parquet", batch_rows=30), batch.cursor)
        assert rejected_in(rest) == rejected_in(batches[place + 1 :])
        assert rows_of(rest) == rows_of(batches[place + 1 :])


async def test_a_corrupt_first_file(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"torn")
    (tmp_path / "b.parquet").write_bytes(parquet(10))
    batches = await drain(source(tmp_path, "parquet"))
    assert [one.position for one in rejected_in(batches)] == [None]
    assert len(rows_of(batches)) == 10
