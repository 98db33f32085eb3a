"""`filter`, `map` and `branch` as a graph uses them."""

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError
from tabular_batches import articles, batch_of, edge
from tabular_calls import kept, mapped

from nvisy_connectors.tabular.branch import Branch, BranchParams
from nvisy_connectors.tabular.filter import Filter, FilterParams
from nvisy_connectors.tabular.map import Map, MapParams
from nvisy_dagster.sdk import ConfigError, ConfigErrors, DataError, EdgeType
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.envelope import payload
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
