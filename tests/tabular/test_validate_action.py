"""`validate`: rules in SQL, JSON Schema, and models of the deployment."""

import datetime as dt
import sys
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tabular_batches import articles, batch_of, edge

from nvisy_connectors.tabular.validate import Validate, ValidateParams
from nvisy_dagster.sdk import ConfigError, DataError, EdgeType
from nvisy_dagster.sdk.findings import collected_findings
from nvisy_dagster.sdk.testing import ActionConformance

ENGLISH = {"name": "english", "check": "lang = 'en'"}
SCORED = {"name": "scored", "check": "score IS NULL OR score > 0.2", "severity": "warn"}
ORDER = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["id", "customer"],
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "email": {"type": "string", "format": "email"},
        "at": {"type": "string", "format": "date-time"},
        "customer": {"$ref": "#/$defs/customer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "$defs": {
        "customer": {
            "type": "object",
            "required": ["name"],
            "properties": {"first name": {"maxLength": 3}},
        }
    },
}

MODELS = """
from pydantic import BaseModel, Field, model_validator

class Order(BaseModel):
    id: int = Field(ge=1)
    name: str = "nobody"
    note: str | None
    amounts: list[float] = []

    @model_validator(mode="after")
    def _small(self):
        if sum(self.amounts) > 100:
            raise ValueError("the sum is over 100")
        return self

class Plain(BaseModel):
    id: int
    missing: str

def function(): ...
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A package of the deployment, and the setting that allows graphs to use it."""
    package = tmp_path / "acme_shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "orders.py").write_text(MODELS)
    (package / "broken.py").write_text("raise RuntimeError('no')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("NVISY_MODEL_MODULES", "acme_shop.orders, acme_shop.broken")
    yield
    for name in [name for name in sys.modules if name.startswith("acme_shop")]:
        del sys.modules[name]


class TestValidateRules(ActionConformance):
    component = Validate

    @pytest.fixture
    def params(self):
        return ValidateParams.model_validate({"rules": [ENGLISH, SCORED]})

    @pytest.fixture
    def rows(self):
        return articles().take([0, 2, 5, 7])

    @pytest.fixture
    def bad_rows(self):
        return articles()

    def refused(self, rows):
        return [edge({"lang": ["en"]}), edge({"lang": ["en"], "score": ["high"]})]


class TestValidateJsonSchema(ActionConformance):
    component = Validate

    @pytest.fixture
    def params(self):
        properties = {"score": {"minimum": 0.3}, "text": {"minLength": 1}}
        schema = {"required": ["lang"], "properties": properties}
        return ValidateParams.model_validate({"json_schema": schema})

    @pytest.fixture
    def rows(self):
        return articles().take([0, 1, 4, 5, 7])

    @pytest.fixture
    def bad_rows(self):
        return articles()

    def refused(self, rows):
        return [edge({"text": ["a"]})]


class TestValidateModel(ActionConformance):
    component = Validate

    @pytest.fixture(autouse=True)
    def _models(self, models):
        pass

    @pytest.fixture
    def params(self):
        return ValidateParams(model="acme_shop.orders:Order")

    @pytest.fixture
    def rows(self):
        return orders().take([0, 1, 4, 5])

    @pytest.fixture
    def bad_rows(self):
        return orders()

    def refused(self, rows):
        return [edge({"id": [1]})]


def orders() -> pa.RecordBatch:
    return batch_of({
        "id": [1, 2, 0, None, 5, 6],
        "note": ["a", None, "c", "d", "e", "f"],
        "name": [None, "b", "c", "d", "e", "f"],
        "amounts": [[1.0], None, [], [200.0], [50.0], [3.0]],
    })


def check(batch: pa.RecordBatch, **params: Any) -> tuple[dict[int, str], pa.RecordBatch]:
    """Why rows of a batch are refused, and what goes on."""
    action = Validate(ValidateParams.model_validate(params))
    assert action.output(EdgeType("row", batch.schema)) == EdgeType("row", batch.schema)
    assert action.output(EdgeType("row")) == EdgeType("row")
    try:
        return {}, action.transform(batch)
    except DataError as error:
        refused = error
    assert refused.tag == "validation"
    assert refused.result is not None
    return refused.rows, refused.result


def misfit(schema: pa.Schema, **params: Any) -> ConfigError:
    with pytest.raises(ConfigError) as refused:
        Validate(ValidateParams.model_validate(params)).output(EdgeType("row", schema))
    return refused.value


def test_a_record_is_refused_with_the_names_of_the_rules_that_it_breaks():
    digits = {"name": "a number", "check": "digits::INTEGER > 0"}
    told, kept = check(articles(), rules=[ENGLISH, digits])
    assert told == {
        1: "rule 'english': lang = 'en' is not true",
        2: "rule 'a number': Could not convert string 'x' to INT32 when casting from source column "
        "digits",
        3: "rule 'english': lang = 'en' is not true",
        4: "rule 'english': lang = 'en' is not true; "
        "rule 'a number': digits::INTEGER > 0 is not true",
        6: told[6],
    }
    assert kept.equals(articles().take([0, 5, 7]))


def test_a_rule_that_only_warns_tags_the_records():
    told, kept = check(articles(), rules=[SCORED, {**SCORED, "name": "again"}])
    assert not told
    tags = ["broken:scored", "broken:again"]
    assert kept["_tags"].to_pylist() == [[], [], tags, [], [], [], tags, []]
    assert kept.drop_columns("_tags").equals(articles().drop_columns("_tags"))
    _, again = check(kept, rules=[SCORED])
    assert again.equals(kept)
    failing = {"name": "number", "check": "digits::INTEGER > 0", "severity": "warn"}
    told, kept = check(articles(), rules=[failing])
    assert not told
    assert [bool(tags) for tags in kept["_tags"].to_pylist()] == [i in {2, 4, 6} for i in range(8)]


def test_a_record_that_is_refused_by_one_rule_is_no_part_of_what_another_warns_of():
    told, kept = check(articles(), rules=[ENGLISH, SCORED])
    assert list(told) == [1, 3, 4, 6]
    assert kept["_tags"].to_pylist() == [[], ["broken:scored"], [], []]


def test_a_rule_that_fails_on_a_record_hides_no_other_rule():
    rules = [
        {"name": "number", "check": "a::INTEGER > 0", "severity": "warn"},
        {"name": "positive", "check": "n > 0"},
        {"name": "whole", "check": "b::INTEGER > 0"},
    ]
    batch = batch_of({"a": ["x", "1", "x", "x"], "b": ["1", "1", "y", "1"], "n": [-1, -1, -1, 1]})
    with collected_findings() as found:
        told, kept = check(batch, rules=rules)
    untrue = "rule 'positive': n > 0 is not true"
    assert told[0] == told[1] == untrue
    assert told[2].startswith(f"{untrue}; rule 'whole': ")
    assert "'y'" in told[2]
    assert kept["_tags"].to_pylist() == [["broken:number"]]
    assert found == {"rule 'number', a warning": 3, "rule 'positive'": 3, "rule 'whole'": 1}


@given(st.lists(st.one_of(st.none(), st.integers(-5, 5)), max_size=80), st.integers(-5, 5))
@settings(max_examples=40, deadline=None)
def test_exactly_the_records_that_break_a_rule_are_refused(numbers, limit):
    batch = batch_of({"n": pa.array(numbers, pa.int64())})
    bad = [row for row, n in enumerate(numbers) if n is None or n <= limit]
    told, kept = check(batch, rules=[{"name": "r", "check": f"n > {limit}"}])
    assert list(told) == bad
    assert kept["n"].to_pylist() == [n for n in numbers if n is not None and n > limit]
    schema = {"required": ["n"], "properties": {"n": {"exclusiveMinimum": limit}}}
    told, again = check(batch, json_schema=schema)
    assert list(told) == bad
    assert again.equals(kept)


def test_a_json_schema_is_told_by_path_and_keyword_and_never_by_value():
    batch = batch_of({
        "id": [1, 0, 3, None],
        "email": ["a@b.de", "secret", None, "b@c.de"],
        "at": pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)] * 4, pa.timestamp("us", "UTC")),
        "customer": [{"name": "a", "first name": None}, {"name": None}, {"name": "b"}, None],
        "tags": [["a"], ["b", None], None, []],
    })
    told, kept = check(batch, json_schema=ORDER)
    assert list(told) == [1, 3]
    assert "$.id: the value is less than the minimum of 1 (minimum)" in told[1]
    assert '$.email: the value is not a "email" (format)' in told[1]
    assert "and 1 more" in told[1] or "$.customer" in told[1]
    assert "secret" not in told[1]
    assert "(required)" in told[3]
    assert kept.num_rows == 2


def test_values_are_written_as_json_has_them():
    columns = {
        "day": pa.array([dt.date(2024, 2, 3)]),
        "bytes": pa.array([b"\x00\x01"]),
        "price": pa.array([Decimal("1.25")]),
        "key": pa.array(["a"]).dictionary_encode(),
        "uuid": pa.array([b"\x01" * 16], pa.uuid()),
        "deep": pa.array([{"x": [{"at": dt.datetime(2024, 1, 1)}], "none": None}]),  # noqa: DTZ001
    }
    schema = {
        "properties": {
            "day": {"const": "2024-02-03", "format": "date"},
            "bytes": {"const": "AAE="},
            "price": {"type": "number", "multipleOf": 0.25},
            "key": {"const": "a"},
            "uuid": {"format": "uuid", "type": "string"},
            "deep": {"const": {"x": [{"at": "2024-01-01T00:00:00"}]}},
        }
    }
    assert check(batch_of(columns), json_schema=schema)[0] == {}


def test_a_column_of_json_text_or_structs_is_looked_at():
    batch = batch_of({
        "data": ['{"id": 1}', '{"id": 0}', "{", "null", None, '{"id": NaN}'],
        "struct": [{"id": 1}, {"id": 0}, None, None, {"id": None}, {"id": 2}],
    })
    schema = {"type": "object", "properties": {"id": {"minimum": 1}}}
    told, kept = check(batch, json_schema=schema, column="data")
    assert list(told) == [1, 2, 3, 4, 5]
    assert told[2].startswith("JSON Schema: not valid JSON: ")
    assert "$: " in told[3]
    assert kept.num_rows == 1
    told, _ = check(batch, json_schema=schema, column="struct")
    assert list(told) == [1, 2, 3]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "nosuch"}, "is not valid under any of the schemas"),
        ({"properties": {"a": {"minimum": "x"}}}, "$.properties.a.minimum"),
        ({"$ref": "http://localhost:1/schema.json"}, "Retrieval is disabled"),
        ({"$ref": "file:///etc/passwd"}, "Retrieval is disabled"),
        ({"$ref": "#/$defs/nosuch"}, "nosuch"),
        ({"pattern": "("}, "regex"),
        ({"format": "nosuch"}, "nosuch"),
        ({"required": ["id"]}, "requires column 'id', which is not there"),
    ],
)
def test_a_json_schema_that_cannot_be_used_is_told_before_the_run(schema, message):
    error = misfit(articles().schema, json_schema=schema)
    assert message in str(error)
    assert error.place == ("json_schema",)


def test_a_pattern_cannot_take_for_ever():
    batch = batch_of({"t": ["a" * 5000 + "!", "abab"]})
    schema = {"properties": {"t": {"pattern": r"^(a|b|ab)*\1$"}}}
    assert list(check(batch, json_schema=schema)[0]) == [0]


def test_a_model_of_the_deployment(models):
    told, kept = check(orders(), model="acme_shop.orders:Order")
    assert list(told) == [2, 3]
    begin = "model acme_shop.orders:Order: "
    assert (
        told[2] == begin + "$.id: Input should be greater than or equal to 1 (greater_than_equal)"
    )
    assert told[3] == begin + "$.id: Input should be a valid integer (int_type)"
    assert kept.num_rows == 4
    big = batch_of({"id": [1], "note": ["x"], "amounts": [[99.0, 2.0]]})
    assert "the sum is over 100" in check(big, model="acme_shop.orders:Order")[0][0]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("os:environ", "allows no models of the module 'os'"),
        ("acme_shop:Order", "allows no models of the module 'acme_shop'"),
        ("acme_shop.orders.more:Order", "allows no models of the module"),
        ("acme_shop.orders:Nothing", "cannot be imported: AttributeError"),
        ("acme_shop.broken:Order", "cannot be imported: RuntimeError: no"),
        ("acme_shop.orders:function", "is no pydantic model"),
        ("acme_shop.orders:BaseModel", None),
        ("acme_shop.orders:Plain", "requires column 'missing'"),
    ],
)
def test_only_models_that_the_deployment_allows_can_be_used(models, path, message):
    schema = orders().schema
    if message is None:
        Validate(ValidateParams(model=path)).output(EdgeType("row", schema))
        return
    error = misfit(schema, model=path)
    assert message in str(error)
    assert error.place == ("model",)


def test_without_the_setting_nothing_is_imported(models, monkeypatch):
    monkeypatch.delenv("NVISY_MODEL_MODULES")
    error = misfit(orders().schema, model="acme_shop.broken:Order")
    assert "NVISY_MODEL_MODULES" in str(error)
    assert "acme_shop.broken" not in sys.modules
    monkeypatch.setenv("NVISY_MODEL_MODULES", "acme_shop.*")
    assert "RuntimeError" in str(misfit(orders().schema, model="acme_shop.broken:Order"))
    assert "allows no" in str(misfit(orders().schema, model="acme_shop:Order"))


def test_all_mistakes_are_told_together():
    error = misfit(
        articles().schema,
        rules=[{"name": "a", "check": "nope > 1"}, {"name": "b", "check": "score"}],
        json_schema={"type": "nosuch"},
    )
    places = [one.place for one in error.errors]
    assert places == [("rules", 0, "check"), ("rules", 1, "check"), ("json_schema",)]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"rules": [ENGLISH, ENGLISH]},
        {"rules": [ENGLISH], "column": "lang"},
        {"model": "os.path"},
        {"model": "os:path.join"},
        {"model": "os:system('x')"},
    ],
)
def test_params_that_mean_nothing_are_refused(params):
    with pytest.raises(ValidationError):
        ValidateParams.model_validate(params)
