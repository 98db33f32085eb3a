"""CSV files, as they are found in the field."""

import csv
import datetime as dt
import io
import math
from pathlib import Path

import duckdb
import pytest
from csv_tables import source, table, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_records import drain, records
from pydantic import ValidationError

from nvisy_connectors.object.formats import csv_cutter, csv_reader, csv_scan
from nvisy_connectors.object.formats.csv_dialect import Dialect
from nvisy_connectors.object.formats.csv_scan import Text
from nvisy_connectors.object.local import LocalSourceParams
from nvisy_dagster.sdk import ConfigError, DataError
from nvisy_dagster.sdk.envelope import payload

pytestmark = pytest.mark.anyio

SAMPLES = Path(__file__).parent / "csv_samples"
UTC = dt.UTC


@pytest.mark.parametrize(
    ("data", "wanted", "numbers"),
    [
        (b"", [], []),
        (b"a,b", [], []),
        (b"a,b\n", [], []),
        (b"\n\r\n\n", [], []),
        (b"a,b\n1,x\n2,y\n", [1, 2], [2, 3]),
        (b"a,b\n1,x\n2,y", [1, 2], [2, 3]),
        (b"a,b\r\n1,x\r\n2,y\r\n", [1, 2], [2, 3]),
        (b"a,b\r1,x\r2,y\r", [1, 2], [2, 3]),
        (b"\n\na,b\n\n1,x\n\n\n2,y\n\n", [1, 2], [5, 8]),
        (b"\xef\xbb\xbfa,b\n1,x\n2,y\n", [1, 2], [2, 3]),
        (b'a,b\n1,"x\n\ny"\n2,"y"\n', [1, 2], [2, 5]),
        (b'a,b\r\n1,"x\r\n"\r\n2,"""\r"\r\n3,', [1, 2, 3], [2, 4, 6]),
        (b'"a\n","b"\n1,5" pipe\n2,y""z\n', [1, 2], [3, 4]),
        ("a,b\n1,ü\n2,😀\n".encode("utf-16"), [1, 2], [2, 3]),
        ("a,b\n1,ü\n2,'\n".encode("utf-16-be"), [1, 2], [2, 3]),
    ],
)
@pytest.mark.parametrize("batch_bytes", [1, 7, 8 << 20])
async def test_reads_records_with_their_lines(tmp_path, data, wanted, numbers, batch_bytes):
    path = write(tmp_path / "x.csv", data)
    found = await records(source(path, batch_bytes=batch_bytes))
    assert [row["a"] for row in found] == wanted
    assert [row["_source"]["position"] for row in found] == numbers


FRAME = [
    {"id": 1, "zip": "01067", "price": 1.5, "ok": True, "day": dt.date(2026, 1, 2)},
    {"id": 2, "zip": "80331", "price": None, "ok": False, "day": dt.date(2026, 1, 2)},
    {"id": 3, "zip": "10115", "price": -3.0, "ok": True, "day": dt.date(2026, 1, 2)},
]
AT = [dt.datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC), None, dt.datetime(2026, 1, 3, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("name", "params", "empty"),
    [
        ("pandas", {}, None),
        ("pandas_all_quoted", {}, ""),
        ("pandas_index", {"csv": {"decimal_point": ","}}, None),
        ("pandas_utf16", {}, None),
        ("pandas_escaped", {}, None),
    ],
)
@pytest.mark.parametrize("batch_bytes", [30, 8 << 20])
async def test_files_of_pandas(name, params, empty, batch_bytes):
    found, types = await table(SAMPLES / f"{name}.csv", batch_bytes=batch_bytes, **params)
    names = ['Müller, "Otto"', "two\nlines", empty]
    for row, plain, at, text in zip(found, FRAME, AT, names, strict=True):
        row.pop("column_1", None)  # the index has no name
        assert row == plain | {"name": text, "at": at}
    types.pop("column_1", None)
    assert list(types.values()) == [
        "int64", "string", "string", "double", "bool", "date32[day]", "timestamp[us, tz=UTC]"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options", ["", ", delimiter ';', quote '''', escape ''''", ", force_quote *", ", header false"]
)
async def test_files_of_duckdb(tmp_path, options):
    path = tmp_path / "x.csv"
    query = """SELECT i::BIGINT AS i, i / 4 AS f, i % 2 = 0 AS b, 'te''xt, "' || i || chr(10) AS s,
        DATE '2026-01-01' + i::INTEGER AS d, TIMESTAMP '2026-01-01 00:00:00.5' AS t,
        CASE WHEN i % 3 = 0 THEN NULL ELSE 'x' END AS n FROM range(5000) r(i)"""
    con = duckdb.connect()
    con.sql(f"COPY ({query}) TO '{path}' (FORMAT csv{options or ', header'})")
    names = list("ifbsdtn")
    header = {"csv": {"header": False}, "columns": names} if "false" in options else {}
    found, types = await table(path, batch_bytes=20_000, **header)
    wanted = con.sql(query).to_arrow_table().to_pylist()
    assert found == wanted
    assert [types[name] for name in names] == [
        "int64", "double", "bool", "string", "date32[day]", "timestamp[us]", "string"
    ]  # fmt: skip


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.text(
    " ,;\"\r\n\t|'=-a1", max_size=8
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.tuples(cells, cells, cells), max_size=8),
    delimiter=st.sampled_from(",;\t| "),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be"]),
    batch_bytes=st.integers(5, 200),
    batch_rows=st.integers(1, 10),
    unfinished=st.booleans(),
)
async def test_what_python_writes_is_read_however_it_is_cut(
    tmp_path, rows, delimiter, quoting, end, encoding, batch_bytes, batch_rows, unfinished
):
    file = io.StringIO(newline="")
    if end != "\r\n":  # older Pythons leave other line ends bare
        quoting = csv.QUOTE_ALL
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerows([["a", "b", "c"], *rows])
    text = file.getvalue()
    text = text.removesuffix(end) if unfinished and rows and rows[-1][2] else text
    path = write(tmp_path / "x.csv", text.encode(encoding))
    columns = dict.fromkeys("abc", "string")
    params = {"columns": columns, "csv": {"delimiter": delimiter, "quote": '"', "escape": ""}}
    if encoding == "utf-16-be":
        params["csv"]["encoding"] = encoding
    read = source(path, batch_bytes=batch_bytes, batch_rows=batch_rows, **params)
    batches = await drain(read)
    found = [
        tuple(value or "" for value in row.values())
        for batch in batches
        for row in payload(batch.data).to_pylist()
    ]
    assert found == rows
    lines = [row["_source"]["position"] for b in batches for row in b.data.to_pylist()]
    begins = text.replace("\r\n", "\n").replace("\r", "\n")
    assert lines == sorted(set(lines))
    assert not lines or lines[-1] <= begins.count("\n") + 1
    for at in range(0, len(batches), max(1, len(batches) // 2)):
        batch = batches[at]
        rest = await drain(source(path, batch_bytes=17, batch_rows=3, **params), batch.cursor)
        want = [row for b in batches[at + 1 :] for row in b.data.to_pylist()]
        assert [row for b in rest for row in b.data.to_pylist()] == want


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", "0"], "int64"),
        (["9223372036854775807"], "int64"),
        (["9223372036854775808"], "string"),
        (["1", "2.5", "1e5", ".5", "nan"], "double"),
        (["12345678901234567890.5", "12345678901234567890"], "string"),
        (["007", "8"], "string"),
        (["1"] * 5000 + ["01"], "string"),
        (["-01.5"], "string"),
        (["0.5", "0"], "double"),
        (["+491234567"], "string"),
        (["1_000"], "string"),
        (["nan", "inf"], "string"),
        (["true", "FALSE"], "bool"),
        (["0", "1"], "int64"),
        (["yes", "no"], "string"),
        (["2026-01-01", "2026-12-31"], "date32[day]"),
        (["2026-02-30"], "string"),
        (["2026-1-1"], "string"),
        (["20260101"], "int64"),
        (["2026-01-01", "2026-01-01T10:00"], "timestamp[us]"),
        (["2026-01-01 10:00:00.123456"], "timestamp[us]"),
        (["2026-01-01 10:00:00.123456789"], "timestamp[ns]"),
        (["2026-01-01T10:00:00Z", "2026-01-01 10:00:00+02:00"], "timestamp[us, tz=UTC]"),
        (["2026-01-01T10:00:00Z", "2026-01-01 10:00:00"], "string"),
        (["01.02.2026"], "string"),
        (["", "", ""], "string"),
        (["1", "", "3"], "int64"),
        (["1"] * 99 + ["x"], "int64"),
        (["1"] * 98 + ["x"], "string"),
    ],
)
async def test_types(tmp_path, values, kind):
    data = "a,b\n" + "".join(f"{value},x\n" for value in values)
    path = write(tmp_path / "x.csv", data.encode())
    read = source(path)
    read.bad_records = "reject"
    (batch, *_) = await drain(read)
    assert str(batch.data.schema.field("a").type) == kind
    if kind == "string":
        assert batch.data.column("a").to_pylist() == [value or None for value in values]


async def test_dates_and_quotes_do_not_need_a_second_look(tmp_path, monkeypatch):
    data = b"id,day,name\n" + b'1,2026-01-02,"a, b"\n' * 9 + b"-5,2026-01-02,c\n"
    read = source(write(tmp_path / "x.csv", data))
    looks = []
    real = csv_reader.salvage
    monkeypatch.setattr(
        csv_reader, "salvage", lambda block, form: looks.append(form) or real(block, form)
    )
    await drain(read)
    assert len(looks) == 1  # for the types


async def test_a_zero_before_a_number_that_comes_later_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("nvisy_connectors.object.formats.csv_reader.SAMPLE_BYTES", 1000)
    for quoted in ("{}", '"{}"'):
        lines = [f"{i},{quoted.format(12345)},{quoted.format('08/15')}" for i in range(2000)]
        lines[1500] = f"1500,{quoted.format('01234')},x"
        path = write(tmp_path / "x.csv", ("id,zip,t\n" + "\n".join(lines)).encode())
        with pytest.raises(DataError, match=r"line 1502 .*'zip' is int64, and '01234' begins with"):
            await drain(source(path, batch_bytes=1000))
        found, _ = await table(path, columns={"zip": "string"}, batch_bytes=1000)
        assert found[1500] == {"zip": "01234"}


async def test_header(tmp_path):
    path = write(tmp_path / "x.csv", b"id,,id,id_2, v ,\n1,2,3,4,5,6\n")
    found, _ = await table(path)
    assert list(found[0]) == ["id", "column_2", "id_3", "id_2", "v", "column_6"]
    path = write(tmp_path / "x.csv", b"a report\n\nof 2026\na,b\n1,2\n")
    (row,) = await records(source(path, csv={"skip_lines": 3}))
    assert (row["a"], row["b"], row["_source"]["position"]) == (1, 2, 5)
    path = write(tmp_path / "x.csv", b"1,2\n3,4\n")
    assert (await table(path, csv={"header": False}))[0][0] == {"column_1": 1, "column_2": 2}
    named = await table(path, csv={"header": False}, columns={"x": "string", "y": "float32"})
    assert named[0] == [{"x": "1", "y": 2.0}, {"x": "3", "y": 4.0}]
    path = write(tmp_path / "x.csv", b"_id,a\n1,2\n")
    with pytest.raises(ConfigError, match=r"'_id' .* reserved"):
        await drain(source(path))
    assert (await table(path, columns=["a"]))[0] == [{"a": 2}]


async def test_files_share_columns_by_name(tmp_path):
    write(tmp_path / "a.csv", b"id,name\n1,x\n")
    write(tmp_path / "b.csv", b"name,id\n2,2\n3,3\n")
    write(tmp_path / "c.csv", "\ufeffname,id\n4,4".encode("utf-16-le"))
    found, _ = await table(tmp_path)
    assert [(row["id"], row["name"]) for row in found] == [(1, "x"), (2, "2"), (3, "3"), (4, "4")]
    batches = await drain(source(tmp_path, batch_rows=1))
    for place, batch in enumerate(batches):
        rest = await drain(source(tmp_path, batch_rows=1), batch.cursor)
        assert [b.data for b in rest] == [b.data for b in batches[place + 1 :]]
    write(tmp_path / "d.csv", b"id,name,more\n1,x,y\n")
    with pytest.raises(DataError, match=r"d.csv: it has a column 'more' that other files have not"):
        await drain(source(tmp_path))
    assert len((await table(tmp_path, columns=["id"]))[0]) == 5
    with pytest.raises(DataError, match=r"a.csv: it has no column 'mor'; it has id, name"):
        await drain(source(tmp_path, columns=["mor"]))


async def test_what_stands_for_nothing(tmp_path):
    path = write(tmp_path / "x.csv", b'a,b\n1,NULL\nNULL,"NULL"\n"",""\n"NULL",\n')
    found, types = await table(path, csv={"null_values": ["", "NULL"]})
    assert types == {"a": "int64", "b": "string"}
    assert [row["a"] for row in found] == [1, None, None, None]
    assert [row["b"] for row in found] == [None, "NULL", "", None]


async def test_a_record_longer_than_a_block(tmp_path, monkeypatch):
    long = 'x\n"",' * 500_000
    data = f'a,b\n1,"{long}"\n2,y\n'.encode()
    path = write(tmp_path / "x.csv", data)
    found, _ = await table(path, batch_bytes=65_536, csv={"delimiter": ","})
    assert found == [{"a": 1, "b": long.replace('""', '"')}, {"a": 2, "b": "y"}]
    for module in (csv_cutter, csv_scan):
        monkeypatch.setattr(module, "MAX_RECORD_UNITS", 100_000)
    path = write(tmp_path / "x.csv", b"a,b\n1,x\n2," + b"y" * 500_000 + b"\n3,z\n")
    with pytest.raises(DataError, match="line 3: it is longer than"):
        await drain(source(path, batch_bytes=65_536))
    read = source(path, batch_bytes=65_536)
    read.bad_records = "reject"
    batches = await drain(read)
    assert [row["a"] for b in batches for row in b.data.to_pylist()] == [1, 3]
    (bad,) = [one for b in batches for one in b.rejected]
    assert (bad.position, bad.data, bad.tag) == (3, None, "too_large")


@settings(max_examples=300, deadline=None)
@given(text=st.text(',"\n\rab', max_size=60), fields=st.sampled_from([None, 1, 2]))
def test_records_do_not_depend_on_what_is_known_so_far(text, fields):
    """What is cut from a part is what is cut from the whole, bad records too."""
    data = text.encode()
    dialect = Dialect()
    whole = Text(dialect.codes(data), dialect, last=True, fields=fields).records()
    ends = whole.all().tolist()
    assert sorted(set(ends)) == ends
    assert (ends[-1] if ends else 0) == len(data)
    for size in range(len(data)):
        part = Text(dialect.codes(data[:size]), dialect, last=False, fields=fields).records()
        count = part.count
        assert part.all().tolist() == ends[:count]
        assert part.bad == {at: why for at, why in whole.bad.items() if at < count}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"format": "jsonl", "csv": {}}, "`csv` does not go with format 'jsonl'"),
        ({"csv": {"delimiter": "ab"}}, "at most 1"),
        ({"csv": {"delimiter": '"', "quote": '"'}}, "must differ"),
        ({"csv": {"delimiter": "x"}}, "no letter"),
        ({"csv": {"encoding": "utf-7"}}, "unknown encoding 'utf-7'; known are utf-8"),
        ({"columns": {"a": "list<string>"}}, "column 'a': a field of a CSV file holds no list"),
        ({"columns": {"a": "whole"}}, "unknown type 'whole'"),
    ],
)
def test_params_are_checked(params, message):
    with pytest.raises(ValidationError, match=message):
        LocalSourceParams(path="x", **({"format": "csv"} | params))


async def test_declared_types(tmp_path):
    data = b"n,d,t,p,f\n7,2026-01-01,10:11:12.5,1.50,inf\n"
    path = write(tmp_path / "x.csv", data)
    columns = {"n": "uint8", "d": "date", "t": "time", "p": "decimal(5, 2)", "f": "float32"}
    read = source(path, columns=columns)
    (batch,) = await drain(read)
    assert batch.data.schema.equals(read.output().schema)
    (row,) = payload(batch.data).to_pylist()
    assert (row["n"], str(row["p"]), row["f"]) == (7, "1.50", math.inf)
    assert row["t"] == dt.time(10, 11, 12, 500_000)
