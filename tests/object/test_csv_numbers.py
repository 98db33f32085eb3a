"""Numbers of CSV files whose types are inferred: a text that would be another is a bad value."""

import pytest
from bad_lines import rejected_in, rows_of
from csv_tables import table
from object_records import drain

from nvisy_connectors.object.formats import csv_reader
from nvisy_connectors.object.local import LocalSource, LocalSourceParams

pytestmark = pytest.mark.anyio

SAMPLE = 300
"""Usual records, before others: more than what types are inferred from."""
LONG = ["12345678901234567", "-9007199254740993", "1234567890123456.75", "1" * 30]
EXACT = ["123456789012345", "0.12345678901234567", "1e20", "-1.5E300"]


@pytest.fixture(autouse=True)
def _few_are_the_sample(monkeypatch):
    monkeypatch.setattr(csv_reader, "SAMPLE_BYTES", 1000)


def source(path, **params):
    reader = LocalSource(
        LocalSourceParams(path=str(path), format="csv", **{"batch_bytes": 300} | params),
        node_id="read",
    )
    reader.bad_records = "reject"
    return reader


def write(path, values, usual="1.5"):
    path.write_text("\n".join(["a,b", *[f"{usual},x"] * SAMPLE, *[f"{one},x" for one in values]]))
    return path


async def rejected_of(path, **params):
    """The values that were rejected, and why; and those that were read behind the sample."""
    batches = await drain(source(path, **params))
    bad = rejected_in(batches)
    return (
        [one.data.decode().partition(",")[0] for one in bad],
        [one.reason.partition("): ")[2] for one in bad],
        [row["a"] for row in rows_of(batches)][SAMPLE:],
    )


@pytest.mark.parametrize("batch_bytes", [100, 900])
@pytest.mark.parametrize("first", [True, False])
async def test_what_has_more_digits_than_a_float_is_none(tmp_path, batch_bytes, first):
    path = write(tmp_path / "x.csv", [LONG[0], *EXACT] if first else [*EXACT, LONG[0]])
    found, reasons, rows = await rejected_of(path, batch_bytes=batch_bytes)
    assert found == LONG[:1]
    assert "'a' is double, and '12345678901234567' has more digits than it holds" in reasons[0]
    assert rows == list(map(float, EXACT))


@pytest.mark.parametrize("value", LONG)
async def test_each_of_them(tmp_path, value):
    found, _, rows = await rejected_of(write(tmp_path / "x.csv", ["2.5", value, "3.5"]))
    assert (found, rows) == ([value], [2.5, 3.5])
    found, _, rows = await rejected_of(
        write(tmp_path / "x.csv", [value]), columns={"a": "float64", "b": "string"}
    )
    assert (found, rows) == ([], [float(value)])


@pytest.mark.parametrize("value", LONG)
async def test_where_they_are_usual_columns_are_texts(tmp_path, value):
    path = tmp_path / "x.csv"
    path.write_text(f"a\n1.5\n{value}\n2.5")
    rows, types = await table(path, columns=None)
    assert types == {"a": "string"}
    assert [row["a"] for row in rows] == ["1.5", value, "2.5"]


async def test_no_hexadecimal_number_is_a_decimal_one(tmp_path):
    path = write(tmp_path / "x.csv", ["0x1F", "16", "-0XA"], "5")
    found, reasons, rows = await rejected_of(path)
    assert (found, rows) == (["0x1F", "-0XA"], [16])
    assert "'a' is int64, and '0x1F' begins with a zero" in reasons[0]


async def test_a_fraction_among_whole_numbers_is_told(tmp_path):
    _, [reason], _ = await rejected_of(write(tmp_path / "x.csv", ["0.5"], "5"))
    assert reason == "column 'a' is int64, and '0.5' is none"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", ["int64", "float64", "decimal(5, 1)"])
async def test_what_stands_for_nothing_does_so_in_quotes(tmp_path, kind, first):
    path = tmp_path / "x.csv"
    odd = ["x,y"] if first else []
    path.write_text("\n".join(["a,b", '"-999","-999"', *odd, '"5","-998"', "-999,-999"]))
    params = {"columns": {"a": kind, "b": "string"}, "csv": {"null_values": ["-999"]}}
    rows = rows_of(await drain(source(path, **params, batch_bytes=1 << 20)))
    assert [(row["a"], row["b"]) for row in rows] == [(None, "-999"), (5, "-998"), (None, None)]
