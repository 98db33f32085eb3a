"""W1's yardstick: one DuckDB query. `w1_duckdb.py ROWS OUT [deduplicate]`."""

import shutil
import sys
import time
from pathlib import Path

import data
import duckdb
from measure import tell

SQL = """
copy (
  select {distinct} id, lower(text) as text, lang, score, ts, meta, length(text) as length
  from read_json('{source}', format = 'newline_delimited')
  where lang = 'en' and score > 0.2
) to '{out}' (format parquet)
"""


def main(rows: int, out: Path, *, deduplicate: bool = False) -> None:
    source = data.w1(rows)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    started = time.perf_counter()
    distinct = "distinct on (lower(text))" if deduplicate else ""
    query = SQL.format(source=source, out=out / "out.parquet", distinct=distinct)
    duckdb.connect().execute(query)
    tell(seconds=time.perf_counter() - started)


if __name__ == "__main__":
    deduplicate = sys.argv[3:] == ["deduplicate"]
    main(int(sys.argv[1]), Path(sys.argv[2]).resolve(), deduplicate=deduplicate)
