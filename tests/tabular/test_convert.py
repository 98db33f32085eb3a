"""`convert`: columns of other types, and records of other primitives."""

import datetime as dt
from decimal import Decimal
from math import inf
from typing import Any

import pyarrow as pa
import pytest
from conversions import convert, refused_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tabular_batches import articles, batch_of, edge

from nvisy_connectors.tabular import list_casts
from nvisy_connectors.tabular.convert import Convert, ConvertParams
from nvisy_dagster.sdk import ConfigError, DataError, EdgeType, NvisyError
from nvisy_dagster.sdk.envelope import ENVELOPE, payload
from nvisy_dagster.sdk.testing import ActionConformance

DIGITS = {"digits": "INTEGER"}


class TestConvertColumns(ActionConformance):
    component = Convert

    @pytest.fixture
    def params(self):
        return ConvertParams.model_validate({
            "columns": {"digits": {"type": "INTEGER", "on_error": "null"}, "score": "DECIMAL(4, 2)"}
        })

    @pytest.fixture
    def rows(self):
        return articles()

    def refused(self, rows):
        return [edge({"score": [1.0]}), edge({"digits": [[1]], "score": [1.0]})]


class TestConvertThatRefuses(ActionConformance):
    component = Convert

    @pytest.fixture
    def params(self):
        return ConvertParams.model_validate({
            "columns": DIGITS,
            "to": "document",
            "fields": {"text": "text || ' ' || lang", "title": "lang"},
        })

    @pytest.fixture
    def rows(self):
        return articles().take([0, 1, 5, 7])

    @pytest.fixture
    def bad_rows(self):
        return articles()


class TestConvertToEmbeddings(ActionConformance):
    component = Convert

    @pytest.fixture
    def params(self):
        return ConvertParams.model_validate({
            "to": "embedding",
            "fields": {"vector": "numbers", "model": "'some-model'"},
            "dimensions": 2,
        })

    @pytest.fixture
    def rows(self):
        return batch_of({"numbers": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [0.0, 0.5]]})

    @pytest.fixture
    def bad_rows(self):
        lists = [[1.0, 2.0], [1.0], None, [3.0, 4.0], [1.0, None], [float("inf"), 0.0]]
        return batch_of({"numbers": lists})


DAY = dt.date(2024, 2, 3)


@pytest.mark.parametrize(
    ("values", "conversion", "kind", "made"),
    [
        (["1", " 2 ", None], "INTEGER", pa.int32(), [1, 2, None]),
        (["1.50", "2"], "DECIMAL(5, 2)", pa.decimal128(5, 2), [Decimal("1.50"), Decimal(2)]),
        ([1, 0], "BOOLEAN", pa.bool_(), [True, False]),
        ([1.0, 2.0], "BIGINT", pa.int64(), [1, 2]),
        (["1e3", "2.0"], "DOUBLE", pa.float64(), [1000.0, 2.0]),
        (["2024-02-03"], "DATE", pa.date32(), [DAY]),
        (["03.02.2024"], {"type": "DATE", "format": "%d.%m.%Y"}, pa.date32(), [DAY]),
        ([DAY], {"type": "VARCHAR", "format": "%d.%m.%Y"}, pa.string(), ["03.02.2024"]),
        (
            ["2024-02-03 12:00:00+02"],
            "TIMESTAMPTZ",
            pa.timestamp("us", "UTC"),
            [dt.datetime(2024, 2, 3, 10, tzinfo=dt.UTC)],
        ),
        (['{"a": [1, 2]}'], "STRUCT(a INTEGER[])", None, [{"a": [1, 2]}]),
        (["[1, 2]", None], "INTEGER[]", pa.list_(pa.int32()), [[1, 2], None]),
        ([{"a": [1, None]}], "VARCHAR", pa.string(), ['{"a":[1,null]}']),
        (["ä".encode(), None], "VARCHAR", pa.string(), ["ä", None]),
        (["ä"], "BLOB", pa.binary(), ["ä".encode()]),
        ([[1, 2]], "DOUBLE[]", pa.list_(pa.float64()), [[1.0, 2.0]]),
    ],
)
def test_values_get_another_type(values, conversion, kind, made):
    column = convert(batch_of({"x": values, "y": values}), columns={"x": conversion}).column("x")
    assert kind is None or column.type.equals(kind)
    assert column.to_pylist() == made


def test_a_column_of_the_type_already_is_not_copied():
    batch = articles()
    made = convert(batch.select([*ENVELOPE.names, "text"]), columns={"text": "VARCHAR"})
    assert made.column("text").buffers()[2].address == batch.column("text").buffers()[2].address
    assert made.column("_id").equals(batch.column("_id"))


def test_each_column_has_its_own_policy():
    batch = batch_of({"a": ["1", "x", "3"], "b": ["1", "2", "y"], "c": ["1", "2", "3"]})
    columns: dict[str, Any] = {
        "a": {"type": "INTEGER", "on_error": "null"},
        "b": "INTEGER",
        "c": {"type": "INTEGER", "on_error": "fail"},
    }
    told = refused_rows(batch, columns=columns)
    assert list(told) == [2]
    assert told[2].startswith("column 'b': Could not convert string 'y' to INT32")
    with pytest.raises(DataError) as refused:
        convert(batch, columns=columns)
    assert payload(refused.value.result).to_pylist() == [
        {"a": 1, "b": 1, "c": 1},
        {"a": None, "b": 2, "c": 2},
    ]
    columns["b"] = {"type": "INTEGER", "on_error": "fail"}
    with pytest.raises(NvisyError, match=r"^column 'b': .*'y'|\"y\"") as failed:
        convert(batch, columns=columns)
    assert not isinstance(failed.value, DataError | ConfigError)
    assert failed.value.tag == "validation"


@pytest.mark.parametrize("name", ["b", "a", 'it\'s "b"', "columns.x': "])
@pytest.mark.parametrize("value", ["y", "1.5"])
def test_a_column_that_ends_the_run_is_never_hidden_by_another(name, value):
    batch = batch_of({"aa": ["x"], name: [value], "z": ["x"]})
    columns = {"aa": "INTEGER", name: {"type": "INTEGER", "on_error": "fail"}, "z": "INTEGER"}
    with pytest.raises(NvisyError) as failed:
        convert(batch, columns=columns)
    assert not isinstance(failed.value, DataError)
    assert failed.value.message.startswith(f"column {name!r}: ")


def test_a_fraction_is_never_cut_off():
    batch = batch_of({"f": [1.0, 2.5, None, -0.5], "t": ["1.0", "2", "3.7", "1e1"]})
    assert refused_rows(batch, columns={"f": "BIGINT"}) == {
        1: "column 'f': 2.5 is no whole number",
        3: "column 'f': -0.5 is no whole number",
    }
    assert refused_rows(batch, columns={"t": "INTEGER"}) == {
        2: "column 't': '3.7' is no whole number"
    }
    sliced = batch.slice(2)
    assert list(refused_rows(sliced, columns={"t": "INTEGER"})) == [0]
    assert convert(batch.slice(0, 2), columns={"t": "INTEGER"})["t"].to_pylist() == [1, 2]
    tiny = batch_of({"t": ["1e-90", "1e-999999", "0e-5", "10e-1"]})
    assert list(refused_rows(tiny, columns={"t": "INTEGER"})) == [0, 1]
    nulls = convert(batch, columns={"t": {"type": "INTEGER", "on_error": "null"}})
    assert nulls.column("t").to_pylist() == [1, 2, None, 10]


@pytest.mark.parametrize(
    ("kind", "large", "small"),
    [
        ("DOUBLE", ["9e308", "-1e309", "1.8e308", "9" * 400], ["1.7e308", "9" * 300, "1e-400"]),
        ("FLOAT", ["9e38", " -1E39 ", "3.5e+38", "9" * 50], ["3.4e38", "9" * 30, "1_0e37"]),
    ],
)
def test_no_number_becomes_infinity(kind, large, small):
    batch = batch_of({"t": [*small, *large, "Infinity", "-inf", None]})
    rows = range(len(small), len(small) + len(large))
    found = refused_rows(batch, columns={"t": kind})
    name = kind.lower()
    assert found == {
        row: f"column 't': {text[:80]!r} is too large for {name}"
        for row, text in zip(rows, large, strict=True)
    }
    assert list(refused_rows(batch.slice(2), columns={"t": kind})) == [row - 2 for row in rows]
    nulls = convert(batch, columns={"t": {"type": kind, "on_error": "null"}})["t"].to_pylist()
    assert None not in nulls[: len(small)]
    assert nulls[len(small) :] == [*[None] * len(large), inf, -inf, None]
    with pytest.raises(NvisyError, match="is too large for"):
        convert(batch, columns={"t": {"type": kind, "on_error": "fail"}})


def test_no_number_within_a_list_becomes_infinity():
    texts = batch_of({"t": [["1", "inf"], ["2", "9e38"], None, ["inf", "1e20"]]})
    assert list(refused_rows(texts, columns={"t": "FLOAT[]"})) == [1]
    json = batch_of({"t": ['[{"x": 1e308}]', '[{"x": 9e308}]', "[]"]})
    assert list(refused_rows(json, columns={"t": "STRUCT(x DOUBLE)[]"})) == [1]


def test_no_double_becomes_an_infinite_float():
    batch = batch_of({"f": [9e38, -inf, 1e38]})
    assert list(refused_rows(batch, columns={"f": "FLOAT"})) == [0]
    nulls = convert(batch, columns={"f": {"type": "FLOAT", "on_error": "null"}})
    assert nulls["f"].to_pylist() == [None, -inf, pytest.approx(1e38)]


def test_a_column_that_is_not_null_stays_so_unless_failures_become_null():
    schema = pa.schema([pa.field("n", pa.string(), nullable=False)])
    batch = batch_of(pa.record_batch([pa.array(["1", "2"])], schema=schema))
    assert not convert(batch, columns={"n": "INTEGER"}).schema.field("n").nullable
    null = {"n": {"type": "INTEGER", "on_error": "null"}}
    assert convert(batch, columns=null).schema.field("n").nullable


@given(
    st.lists(
        st.one_of(st.none(), st.integers(-300, 300).map(str), st.sampled_from(["x", "", "1.5"])),
        min_size=1,
        max_size=60,
    ),
    st.sampled_from(["reject", "null"]),
)
@settings(max_examples=60, deadline=None)
def test_exactly_the_values_that_do_not_fit_fail(values, on_error):
    batch = batch_of({"n": pa.array(values, pa.string())})

    def fits(value):
        return value is None or (value.lstrip("-").isdigit() and -128 <= int(value) <= 127)

    bad = [row for row, value in enumerate(values) if not fits(value)]
    wanted = [None if v is None else int(v) for v in values if fits(v)]
    columns = {"n": {"type": "TINYINT", "on_error": on_error}}
    if bad and on_error == "reject":
        with pytest.raises(DataError) as refused:
            convert(batch, columns=columns)
        assert list(refused.value.rows) == bad
        assert refused.value.result.column("n").to_pylist() == wanted
    else:
        made = convert(batch, columns=columns).column("n").to_pylist()
        assert made == [int(v) if v is not None and fits(v) else None for v in values]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"nope": "INTEGER"}, "'columns' names column 'nope'"),
        ({"Text": "INTEGER"}, "did you mean 'text'"),
        ({"text": "NOSUCH"}, "column 'text': the type 'nosuch' is not allowed in a cast"),
        ({"text": "INTEGER) || (1"}, "is no type"),
        ({"text": "INTEGER; DROP TABLE x"}, "column 'text': syntax error"),
        ({"text": "FLOAT[3]"}, "use a list"),
        ({"text": {"type": "INTEGER", "format": "%d"}}, "'format' says how dates"),
        ({"text": {"type": "DATE", "format": "%q"}}, "Unrecognized format"),
        ({"day": "INTEGER"}, "column 'day': Unimplemented type for cast"),
        ({"list": "INTEGER"}, "column 'list': no int32 can be made of list"),
    ],
)
def test_what_cannot_be_converted_is_told_before_the_run(columns, message):
    batch = batch_of({"text": ["a"], "day": [DAY], "list": [[1]]})
    action = Convert(ConvertParams.model_validate({"columns": columns}))
    with pytest.raises(ConfigError, match=None) as refused:
        action.output(EdgeType("row", batch.schema))
    assert message in str(refused.value)
    assert refused.value.place[:2] == ("columns", next(iter(columns)))


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"fields": {"text": "a"}, "columns": DIGITS},
        {"to": "document", "dimensions": 3},
        {"columns": {"_ID": "INTEGER"}},
        {"to": "nothing"},
    ],
)
def test_params_that_mean_nothing_are_refused(params):
    with pytest.raises(ValidationError):
        ConvertParams.model_validate(params)


def test_a_text_of_too_many_items_fails_and_one_as_long_does_not(monkeypatch):
    monkeypatch.setattr(list_casts, "MAX_RECORD_BYTES", 1 << 20)
    texts = {
        "many": "[" + "1," * 20_000 + "1]",
        "long": '["' + "x" * 40_000 + '"]',
        "objects": "[" + ",".join(['{"a":1,"b":2,"c":3}'] * 1200) + "]",
        "few": "[1, 2]",
    }
    cast = Convert(ConvertParams(columns={"listed": "JSON[]"}), node_id="c")
    with pytest.raises(DataError, match="'CAST' gets a value") as caught:
        cast.transform(batch_of({"listed": list(texts.values())}))
    assert [list(texts)[row] for row in caught.value.rows] == ["many"]
    assert caught.value.tag == "memory_limit"
    wide = ", ".join(f"{name} INTEGER" for name in "abcdefghijklmnopqrst")
    cast = Convert(ConvertParams(columns={"listed": f"STRUCT({wide})[]"}), node_id="c")
    with pytest.raises(DataError, match="'CAST' gets a value") as caught:
        cast.transform(batch_of({"listed": list(texts.values())}))
    assert [list(texts)[row] for row in caught.value.rows] == ["many", "objects"]
