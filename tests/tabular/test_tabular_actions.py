"""`filter`, `map` and `branch` as a graph uses them."""

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tabular_batches import articles, batch_of, edge

from nvisy_connectors.tabular import reasons
from nvisy_connectors.tabular.branch import Branch, BranchParams
from nvisy_connectors.tabular.filter import Filter, FilterParams
from nvisy_connectors.tabular.map import Map, MapParams
from nvisy_dagster.sdk import ConfigError, ConfigErrors, DataError, EdgeType
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.envelope import ENVELOPE, payload
from nvisy_dagster.sdk.testing import ActionConformance, RouterConformance


class TestFilter(ActionConformance):
    component = Filter

    @pytest.fixture
    def params(self):
        return FilterParams(where="lang = 'en' AND score > 0.2")

    @pytest.fixture
    def rows(self):
        return articles()

    def refused(self, rows):
        return [edge({"other": [1]}), edge({"lang": ["en"], "score": [[1.0]]})]


class TestMap(ActionConformance):
    component = Map

    @pytest.fixture
    def params(self):
        return MapParams(
            set={
                "text": "lower(text)",
                "length": "length(text)",
                "file": "_source.uri",
                "day": "timestamptz '2020-01-01 12:00+02'",
                "words": "string_split(text, ' ')",
                "copy": "score",
            },
            drop=("digits",),
            rename={"lang": "language"},
        )

    @pytest.fixture
    def rows(self):
        return articles()

    def refused(self, rows):
        return [edge({"text": ["a"]}), edge({"text": [1], "score": [1.0], "digits": ["1"]})]


class TestBranch(RouterConformance):
    component = Branch

    @pytest.fixture
    def params(self):
        return BranchParams.model_validate({
            "routes": [
                {"name": "english", "when": "lang = 'en'"},
                {"name": "good", "when": "score > 0.5"},
            ],
            "default": "rest",
        })

    @pytest.fixture
    def rows(self):
        return articles()

    def refused(self, rows):
        return [edge({"lang": ["en"]}), edge({"lang": ["en"], "score": [[1.0]]})]


def kept(where: str, batch: pa.RecordBatch) -> list[int]:
    found = Filter(FilterParams(where=where)).transform(batch)
    return [row["_source"]["position"] for row in found.to_pylist()]


def mapped(batch: pa.RecordBatch, primitive: str = "row", **params: Any) -> pa.RecordBatch:
    action = Map(MapParams.model_validate(params))
    promised = action.output(EdgeType(primitive, batch.schema)).schema
    made = action.transform(batch)
    assert made.schema.equals(promised, check_metadata=True)
    assert made.schema.names[: len(ENVELOPE)] == ENVELOPE.names
    assert made.column("_id").equals(batch.column("_id"))
    return made


def primitive_after(primitive: str, **params: Any) -> str:
    action = Map(MapParams.model_validate(params))
    known = action.output(EdgeType(primitive, schema_of(primitive))).primitive
    unknown = action.output(EdgeType(primitive)).primitive
    assert (known, unknown) in {(known, known), ("row", primitive)}
    return known


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("lang = 'en' and score > 0.2", [0, 5, 7]),
        ("lang IS NULL", [3]),
        ("NOT (lang = 'en')", [1, 4, 6]),
        ("text = 'Q''q' -- a comment at the end", [7]),
        ("text LIKE '%b' or text ~ '^[YÜ]'", [0, 1, 5]),
        ("_source.position BETWEEN 2 AND 3", [2, 3]),
        ("TEXT in ('x', 'z')", [4, 6]),
        ("try_cast(digits AS INT) > 3", [3, 5, 7]),
        ("(json_object('a', score) -> '$.a')::DOUBLE > 0.7", [0, 1]),
        ("json_object('a', score) ->> 'a' = '0.5'", [5]),
        ("true", list(range(8))),
        ("1 > 2", []),
        ("score", None),
    ],
)
def test_filter_keeps_what_is_true(where, rows):
    if rows is None:
        with pytest.raises(ConfigError, match="must be BOOLEAN, and is double"):
            kept(where, articles())
    else:
        assert kept(where, articles()) == rows


def test_names_that_need_quotes_work():
    batch = batch_of({"a b": [1, 2], 'q"q': [3, 4], "Übung": ["x", "y"], "select": [True, False]})
    assert kept('"a b" = 2 AND "Q""Q" = 4', batch) == [1]
    assert kept('"Übung" = \'x\' AND "SELECT"', batch) == [0]
    assert payload(mapped(batch, set={"new one": '"a b" + 1'}, select=["new one"])).to_pydict() == {
        "new one": [2, 3]
    }


def test_columns_that_differ_by_case_are_ambiguous_only_when_read():
    batch = batch_of({"Id": [1], "ID": [2], "x": [3]})
    assert kept("x = 3", batch) == [0]
    with pytest.raises(ConfigError, match=r"column 'id' is ambiguous: there are 'Id', 'ID'"):
        kept("id = 1", batch)


def test_a_struct_column_is_not_taken_for_the_table():
    batch = batch_of({"records": [{"x": 1}], "x": [2], "main": [{"records": {"x": 3}}]})
    assert kept("records.x = 1 AND x = 2 AND main.records.x = 3", batch) == [0]


def test_map_applies_set_then_select_drop_and_rename():
    batch = batch_of({"a": [1], "b": ["X"], "c": [True]})
    made = mapped(
        batch,
        set={"b": "lower(b)", "n": "length(b) + a", "a": "a * 10"},
        select=["n", "b", "a", "c"],
        drop=["c"],
        rename={"a": "b", "b": "a"},
    )
    assert payload(made).to_pylist() == [{"n": 2, "a": "x", "b": 10}]


def test_metadata_of_the_schema_stays():
    batch = articles().replace_schema_metadata({"made by": "a source"})
    assert mapped(batch, set={"n": "length(text)"}).schema.metadata == {b"made by": b"a source"}
    assert kept("lang = 'de'", batch) == [1, 6]


def test_map_passes_other_columns_without_a_copy():
    batch = batch_of({"text": ["A"], "big": ["x" * 1000]})
    made = mapped(batch, set={"text": "lower(text)", "again": "big"})
    came = batch.column("big").buffers()[2].address
    assert made.column("big").buffers()[2].address == came
    assert made.column("again").buffers()[2].address == came


TYPES = {
    "tz": pa.array([dt.datetime(2020, 1, 1, tzinfo=dt.UTC)], pa.timestamp("ms", "UTC")),
    "large": pa.array(["a"], pa.large_string()),
    "key": pa.array(["a"]).dictionary_encode(),
    "id": pa.array([b"i" * 16], pa.binary(16)),
    "vector": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
    "half": pa.array([1.5], pa.float16()),
    "list": pa.array([["a"]]),
    "u": pa.array([2**64 - 1], pa.uint64()),
    "nothing": pa.nulls(1),
}


@pytest.mark.parametrize("name", [name for name in TYPES if name != "nothing"])
def test_a_column_that_is_copied_keeps_its_type(name):
    made = mapped(batch_of(TYPES), set={"copy": f'"{name}"'})
    assert made.column("copy").equals(TYPES[name])


@pytest.mark.parametrize(
    ("expression", "kind", "value"),
    [
        ("coalesce(tz, NULL)", pa.timestamp("us", "UTC"), dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
        ("large || key", pa.string(), "aa"),
        ("coalesce(nothing, 'x')", pa.string(), "x"),
        ("half + 1", pa.float32(), 2.5),
        ("[key]", pa.list_(pa.string()), ["a"]),
        ("{'a': [1]}", pa.struct([("a", pa.list_(pa.int32()))]), {"a": [1]}),
        ("coalesce(vector, vector)", pa.list_(pa.float32(), 2), [1.0, 2.0]),
        ("array_inner_product(vector, vector)", pa.float32(), 5.0),
        ("list_sum([1, 2])", pa.decimal128(38, 0), 3),
        ("hex(id)", pa.string(), "69" * 16),
    ],
)
def test_results_have_one_known_type(expression, kind, value):
    made = mapped(batch_of(TYPES), set={"x": expression}).column("x")
    assert (made.type, made.to_pylist()) == (kind, [value])


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"set": {"x": "NULL"}}, "nothing says the type"),
        ({"set": {"x": "txt"}}, "no column 'txt' .*did you mean 'text'"),
        ({"set": {"x": "lower(score)"}}, r"'set.x': 'lower' does not take .* \(at character 1\)"),
        ({"set": {"Text": "lower(text)"}}, "differs from 'text' only by case"),
        ({"select": ["txt"]}, "'select' names column 'txt'.*did you mean 'text'"),
        ({"drop": ["nosuch"]}, "'drop' names column 'nosuch'"),
        ({"rename": {"text": "lang"}}, "two columns would be called 'lang'"),
        ({"select": ["text"], "drop": ["lang"]}, "'drop' names column 'lang'"),
    ],
)
def test_what_map_refuses_at_compile_time_and_in_the_same_words_at_run_time(params, told):
    action = Map(MapParams.model_validate(params))
    with pytest.raises(ConfigError, match=told) as compiled:
        action.output(EdgeType("row", articles().schema))
    action.output(EdgeType("row"))
    with pytest.raises(ConfigError) as ran:
        action.transform(articles())
    assert str(ran.value) == str(compiled.value)


@pytest.mark.parametrize(
    "params",
    [{}, {"set": {"_ID": "text"}}, {"drop": ["_tags"]}, {"rename": {"text": "_source"}}],
)
def test_params_that_touch_the_envelope_or_do_nothing_are_invalid(params):
    with pytest.raises(ValidationError):
        MapParams.model_validate(params)


def test_the_primitive_stays_as_long_as_its_columns_do():
    assert primitive_after("document", set={"text": "lower(text)"}) == "document"
    assert primitive_after("document", set={"n": "length(text)"}) == "document"
    assert primitive_after("document", drop=["title"]) == "document"
    assert primitive_after("document", drop=["text"]) == "row"
    assert primitive_after("document", select=["title"]) == "row"
    assert primitive_after("document", rename={"text": "body"}) == "row"
    assert primitive_after("document", set={"text": "length(text)"}) == "row"
    assert primitive_after("chunk", set={"index": '"index" + 1::INTEGER'}) == "chunk"


def test_a_required_column_that_becomes_null_fails_its_rows():
    schema = pa.schema([pa.field("text", pa.string(), nullable=False)])
    batch = batch_of(pa.record_batch([pa.array(["a", "", "b", ""])], schema=schema))
    with pytest.raises(DataError) as failed:
        mapped(batch, set={"text": "nullif(text, '')"})
    assert list(failed.value.rows) == [1, 3]
    assert not mapped(batch, set={"text": "lower(text)"}).schema.field("text").nullable


def test_exactly_the_failing_rows_are_named():
    with pytest.raises(DataError, match="2 of 8 rows fail") as failed:
        mapped(articles(), set={"n": "digits::INT", "m": "score * 2"})
    assert list(failed.value.rows) == [2, 6]
    assert failed.value.rows[6] == (
        "expression 'set.n': Could not convert string 'seven' to INT32 "
        "when casting from source column digits"
    )
    with pytest.raises(DataError) as failed:
        kept("digits::INT > 1", articles())
    assert list(failed.value.rows) == [2, 6]


def test_try_gives_null_instead_of_a_failure():
    made = mapped(articles(), set={"n": "TRY(digits::INT)", "m": "try_cast(digits AS INT)"})
    assert made.column("n").to_pylist() == [1, 2, None, 4, None, 6, None, 8]
    assert made.column("m").equals(made.column("n"))
    with pytest.raises(DataError) as failed:
        mapped(articles(), set={"n": "coalesce(TRY(digits::INT), text::INT)"})
    assert list(failed.value.rows) == [2, 4, 6]


def test_every_failing_row_is_named_however_many():
    batch = batch_of({"x": ["bad"] * 500 + ["1"] + ["bad" + "x" * 10_000]})
    with pytest.raises(DataError) as failed:
        mapped(batch, set={"n": "x::INT"})
    assert sorted(failed.value.rows) == [*range(500), 501]
    assert len(failed.value.rows[501]) < 400
    assert len(str(failed.value)) < 1000


def test_reasons_of_many_kinds_are_not_all_asked_for_and_those_of_equal_rows_are_shared():
    batch = batch_of({"x": ["bad"] * 50 + [f"bad{i}" for i in range(50)] + ["bad", "2020-01-01"]})
    with pytest.raises(DataError) as failed:
        mapped(batch, set={"n": "x::DATE"})
    told = failed.value.rows
    assert sorted(told) == list(range(101))
    assert told[100] == told[0]
    assert 'invalid date field format: "bad"' in told[0]
    assert 'invalid date field format: "bad7"' in told[57]
    assert told[99] == "expression 'set.n': it fails, like other rows of the batch"


REASONED = [
    "x::INT",
    "X::DOUBLE + 1 > 2",
    "abs(x::INT) > 1 AND y = 'a'",
    "CASE WHEN y = 'a' THEN x::INT ELSE y::INT END",
    "x::INT + x::TINYINT",
    "y = 'a' OR x::INT = 1",
    "coalesce(TRY(x::INT), y::INT)",
    "trim(x)::INT",
    "x::INT + y::INT",
]


@pytest.mark.parametrize("expression", REASONED)
@settings(max_examples=15, deadline=None)
@given(
    values=st.lists(
        st.tuples(
            st.one_of(
                st.none(),
                st.sampled_from(["1", "300", "a", "", "1e400", "{}", "9" * 30, "'", "a\nb", '"']),
                st.text(st.characters(exclude_categories=["Cs"])),
            ),
            st.sampled_from(["a", "1", "b", None]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_the_reasons_of_many_rows_are_those_of_each_row_alone(expression, values):
    batch = batch_of(
        pa.record_batch({
            "x": pa.array([x for x, _ in values], pa.string()),
            "y": pa.array([y for _, y in values], pa.string()),
        })
    )
    told = reasons_of(expression, batch)
    reasons.memory_of.cache_clear()
    for row in range(batch.num_rows):
        alone = reasons_of(expression, batch.slice(row, 1))
        assert told.get(row) == alone.get(0)
        reasons.memory_of.cache_clear()


def reasons_of(expression: str, batch: pa.RecordBatch) -> dict[int, str]:
    try:
        mapped(batch, set={"n": expression})
    except DataError as error:
        return error.rows
    return {}


def test_huge_integers_fail_instead_of_turning_into_other_numbers():
    batch = batch_of({"x": ["1", "99999999999999999999999999999999999999", "1" + "0" * 38]})
    with pytest.raises(DataError) as failed:
        mapped(batch, set={"n": "x::HUGEINT"})
    assert list(failed.value.rows) == [2]


def branch(**params: Any) -> Branch:
    return Branch(BranchParams.model_validate(params))


@pytest.mark.anyio
async def test_branch_takes_the_first_match_and_drops_the_rest():
    router = branch(
        routes=[{"name": "a", "when": "lang = 'en'"}, {"name": "b", "when": "score > 0.7"}]
    )
    found = await router.route(articles())
    places = {k: v.column("_source").field("position").to_pylist() for k, v in found.items()}
    assert places == {"a": [0, 2, 5, 7], "b": [1]}


@pytest.mark.anyio
async def test_a_route_guards_the_next_one():
    routes = [
        {"name": "text", "when": "try_cast(digits AS INT) IS NULL"},
        {"name": "large", "when": "digits::INT > 5"},
    ]
    found = await branch(routes=routes, default="small").route(articles())
    assert {name: batch.num_rows for name, batch in found.items()} == {
        "text": 3,
        "large": 2,
        "small": 3,
    }
    with pytest.raises(DataError) as failed:
        await branch(routes=routes[1:]).route(articles())
    assert list(failed.value.rows) == [2, 6]


def test_branch_refuses_routes_of_one_name():
    with pytest.raises(ValidationError, match="different names"):
        branch(routes=[{"name": "a", "when": "true"}], default="a")


def test_branch_names_the_route_whose_expression_is_wrong():
    router = branch(routes=[{"name": "a", "when": "true"}, {"name": "b", "when": "score"}])
    with pytest.raises(ConfigError, match=r"expression 'routes\.b\.when': it must be BOOLEAN"):
        router.check(EdgeType("row", articles().schema))
    router.check(EdgeType("row"))


def test_threads_do_not_see_each_others_batches():
    action = Map(MapParams(set={"y": "x * 2", "s": "'n' || x"}))
    batches = [batch_of({"x": list(range(i, i + 2000))}) for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        for batch, made in zip(batches, pool.map(action.transform, batches), strict=True):
            x = batch.column("x").to_pylist()
            assert made.column("y").to_pylist() == [2 * value for value in x]
            assert made.column("s").to_pylist() == [f"n{value}" for value in x]


def test_every_mistake_has_its_place_in_the_params():
    params = MapParams(set={"a": "txt", "b": "length(", "c": "1"}, drop=("x", "y"))
    with pytest.raises(ConfigErrors) as caught:
        Map(params).output(EdgeType("row", articles().schema))
    assert [error.place for error in caught.value.errors] == [
        ("set", "b"),
        ("set", "a"),
        ("drop", 0),
        ("drop", 1),
    ]
    assert all(str(error) in str(caught.value) for error in caught.value.errors)
    with pytest.raises(ConfigError) as one:
        Filter(FilterParams(where="txt = 1")).output(EdgeType("row", articles().schema))
    assert one.value.place == ("where",)


def test_hints_name_the_columns_of_the_author_first():
    for component in (Filter(FilterParams(where="zzz")), Map(MapParams(drop=("zzz",)))):
        with pytest.raises(ConfigError) as caught:
            component.output(EdgeType("row", articles().schema))
        assert caught.value.remedy is not None
        columns = caught.value.remedy.removeprefix("there are: ").split(", ")
        own = [name for name in columns if not name.startswith("_")]
        assert own
        assert columns[: len(own)] == own


@pytest.mark.parametrize("name", ["read_text", "read_csv_auto", "random", "sum"])
def test_a_function_of_duckdb_is_not_taken_for_a_misspelled_one(name):
    with pytest.raises(ConfigError) as caught:
        Filter(FilterParams(where=f"{name}(text)")).output(EdgeType("row", articles().schema))
    assert "did you mean" not in (caught.value.remedy or "")
