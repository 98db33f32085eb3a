"""CSV records that cannot be read: exactly the bad ones are rejected, wherever reading stops."""

import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from object_records import drain

from nvisy_connectors.object.local import LocalSource, LocalSourceParams
from nvisy_dagster.sdk import DataError
from nvisy_dagster.sdk.envelope import payload

pytestmark = pytest.mark.anyio

ROWS = 20_000
HEADER = b"id,name,score,day\n"
COLUMNS = {"id": "int64", "name": "string", "score": "float64", "day": "date"}


def source(path, **params):
    found = LocalSource(LocalSourceParams(path=str(path), format="csv", **params), node_id="read")
    found.bad_records = "reject"
    return found


def rows_of(batches):
    return [row for batch in batches for row in payload(batch.data).to_pylist()]


def rejected_in(batches):
    return [bad for batch in batches for bad in batch.rejected]


def positions(batches):
    return [v["position"] for b in batches for v in b.data.column("_source").to_pylist()]


def good_line(number: int) -> bytes:
    name = f'"two\n""lines"" {number}, ü"' if number % 7 == 0 else f"n {number} ü"
    return f"{number},{name},{number / 8},2026-01-02".encode()


BREAKS = {
    "few": lambda n: f"{n},x".encode(),
    "many": lambda n: f"{n},x,1,2026-01-02,y".encode(),
    "type": lambda n: f"{n}x,x,1,2026-01-02".encode(),
    "float": lambda n: f"{n},x,one,2026-01-02".encode(),
    "date": lambda n: f"{n},x,1,2026-02-30".encode(),
    "range": lambda n: f"{10**19 + n},x,1,2026-01-02".encode(),
    "encoding": lambda n: b"%d,x\xff\xfe,1,2026-01-02" % n,
    "unclosed": lambda n: f'{n},"x,1,2026-01-02'.encode(),
    "junk": lambda n: f'{n},"x"y,1,2026-01-02'.encode(),
    "lines": lambda n: f'{n},"two\nlines",1'.encode(),
    "quote": lambda n: f'"{n},x,1,2026-01-02'.encode(),
}


def spoilt(rate: float, seed: int, names=tuple(BREAKS)):
    """Records some of which are bad; and those by the number of their line."""
    draw = random.Random(seed)
    made, bad, good = [], {}, []
    line, byte = 2, len(HEADER)
    for number in range(1, ROWS + 1):
        record = good_line(number)
        if draw.random() < rate:
            record = BREAKS[draw.choice(names)](number)
            bad[line] = (record, byte)
        else:
            good.append((line, number))
        made.append(record)
        line += record.count(b"\n") + 1
        byte += len(record) + 1
    return HEADER + b"\n".join(made) + b"\n", bad, good


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize(
    "params", [{}, {"columns": COLUMNS, "batch_bytes": 40_000, "batch_rows": 700}]
)
async def test_the_rejected_are_exactly_the_injected(tmp_path, rate, params):
    data, bad, good = spoilt(rate, seed=int(1 / rate))
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    batches = await drain(source(path, **params))
    found = rejected_in(batches)
    assert {one.position: (one.data, one.metadata["byte"]) for one in found} == bad
    assert len(found) == len(bad)
    for one in found:
        assert one.uri == path.as_uri()
        assert one.reason.startswith(f"line {one.position} (byte {one.metadata['byte']}): ")
    assert positions(batches) == [line for line, _ in good]
    assert [row["id"] for row in rows_of(batches)] == [number for _, number in good]
    for row in rows_of(batches)[:100]:
        wanted = f'two\n"lines" {row["id"]}, ü' if row["id"] % 7 == 0 else f"n {row['id']} ü"
        assert (row["name"], row["score"]) == (wanted, row["id"] / 8)


async def test_reading_goes_on_after_any_bad_record(tmp_path):
    data, _, _ = spoilt(0.3, seed=1)
    path = tmp_path / "x.csv"
    path.write_bytes(data[:6000])
    params = {"columns": COLUMNS, "batch_bytes": 500, "batch_rows": 3}
    batches = await drain(source(path, **params))
    for place, batch in enumerate(batches):
        rest = await drain(source(path, columns=COLUMNS, batch_rows=5), batch.cursor)
        assert rows_of(rest) == rows_of(batches[place + 1 :])
        assert rejected_in(rest) == rejected_in(batches[place + 1 :])


@pytest.mark.parametrize("name", BREAKS)
async def test_without_a_policy_the_first_is_named(tmp_path, name):
    path = tmp_path / "x.csv"
    bad = BREAKS[name](7)
    path.write_bytes(HEADER + good_line(1) + b"\n" + bad + b"\n" + good_line(2) + b"\n")
    read = source(path, columns=COLUMNS)
    read.bad_records = "raise"
    with pytest.raises(DataError) as caught:
        await drain(read)
    byte = len(HEADER) + len(good_line(1)) + 1
    assert f"{path.as_uri()}, line 3 (byte {byte}): " in str(caught.value)
    assert caught.value.remedy


async def test_a_file_that_is_none_of_them(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,other\n1,2\n")
    (tmp_path / "b.csv").write_bytes(HEADER + good_line(1))
    (tmp_path / "c.csv").write_bytes(b'"id,name\n1,2\n')
    batches = await drain(source(tmp_path, columns=COLUMNS))
    assert [one.position for one in rejected_in(batches)] == [None, None]
    assert "a.csv: it has no column 'name'; it has id, other" in rejected_in(batches)[0].reason
    assert len(rows_of(batches)) == 1
    (tmp_path / "a.csv").write_bytes(b"name,id,score,day\nx,9,1,2026-01-01\n")
    read = source(tmp_path, columns=COLUMNS)
    bad = rejected_in(batches)
    assert all(read.can_decode(one) for one in bad)
    async with read:
        told = [found async for found in read.decode(bad)]
    assert [row["id"] for one in told for row in payload(one.data).to_pylist()] == [9]
    assert [one.uri for found in told for one in found.rejected] == [bad[1].uri]


@pytest.mark.parametrize("gone", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
async def test_records_are_tried_again(tmp_path, gone, encoding):
    path = tmp_path / "x.csv"
    text = 'id;name\n1;ü\n2x;"a\nü"\n3;b\n4;b;c\n5;"d\n6;e\n'
    path.write_bytes(text.encode(encoding))
    columns = {"id": "int64", "name": "string"}
    batches = await drain(source(path, columns=columns))
    bad = rejected_in(batches)
    assert [one.position for one in bad] == [3, 6, 7]
    assert [row["id"] for row in rows_of(batches)] == [1, 3, 6]
    columns = {"id": "string", "name": "string"}
    whole = await drain(source(path, columns=columns))
    if gone:
        path.unlink()
        (tmp_path / "y.csv").write_bytes(b"name,id\nx,1\n")
    read = source(tmp_path if gone else path, columns=columns)
    assert all(read.can_decode(one) for one in bad)
    async with read:
        (again,) = [found async for found in read.decode(bad)]
    (row,) = again.data.to_pylist()
    (same,) = [r for b in whole for r in b.data.to_pylist() if r["id"] == "2x"]
    assert row | {"_created_at": None} == same | {"_created_at": None}
    assert (row["name"], row["_source"]["position"]) == ("a\nü", 3)
    assert [one.position for one in again.rejected] == [6, 7]
    assert [one.reason for one in again.rejected] == [one.reason for one in bad[1:]]


@example(value='"1"', column="s")
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    value=st.sampled_from([
        *("1", " 1 ", "+1", "-0", "1.", ".5", "1e5", "1_0", "0x1", "", "  ", "٣", "1e999"),
        *("9223372036854775807", "9223372036854775808", "true", "True", "TRUE", "1.25", "1.255"),
        *("nan", "NaN", "inf", "Infinity", "2026-01-01", " 2026-01-01", "2026-02-30", "00012"),
        *("2026-01-01T00:00:00Z", "2026-01-01 00:00", "10:11:12", "255", "256", "12:00", "x"),
        *('a"b', "1\t", '"1"', '""', '"\n1"', "'1", "1e-400", "123456789012345678"),
        *("123456789012345.123456789012345", "-9223372036854775808", "0" * 30 + "1"),
    ]),
    column=st.sampled_from(list("iubfhdtzpcs")),
)
async def test_the_fate_of_a_record_does_not_depend_on_others(tmp_path, value, column):
    columns = {"i": "int64", "u": "uint8", "b": "bool", "f": "float64", "h": "float32"}
    columns |= {"d": "date", "t": "timestamp[us]", "z": "timestamp[us, UTC]"}
    columns |= {"p": "decimal(10, 2)", "c": "time", "s": "string", "last": "string"}
    header = ",".join(columns)
    record = ",".join(value if name == column else "" for name in columns)
    fates = []
    for others in ([], ["x" + "," * 11, "too,few"]):
        path = tmp_path / "x.csv"
        path.write_text("\n".join([header, *others, record, *others]), "utf-8")
        batches = await drain(source(path, columns=columns, csv={"delimiter": ",", "escape": ""}))
        place = len(others) + 2
        bad = {one.position for one in rejected_in(batches)}
        shift = value.count("\n")
        assert bad - {place} == {2 + i for i in range(len(others))} | {
            place + shift + 1 + i for i in range(len(others))
        }
        fates.append(repr(rows_of(batches)))
    assert fates[0] == fates[1]
