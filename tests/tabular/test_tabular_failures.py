"""Records on which an expression fails: which they are, why, and what becomes of the others."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tabular_batches import articles, batch_of
from tabular_calls import kept, mapped

from nvisy_connectors.tabular import database, evaluation, reasons, tolerant
from nvisy_connectors.tabular.branch import Branch, BranchParams
from nvisy_connectors.tabular.filter import Filter, FilterParams
from nvisy_connectors.tabular.map import Map, MapParams
from nvisy_dagster.sdk import ConfigError, DataError
from nvisy_dagster.sdk.testing import ActionConformance, RouterConformance

GOOD = [0, 1, 3, 4, 5, 7]
"""The rows of `articles` whose digits are some, or NULL."""


@pytest.fixture(autouse=True)
def nothing_remembered():
    evaluation.memory_of.cache_clear()
    reasons.memory_of.cache_clear()


class _Failing:
    @pytest.fixture
    def rows(self):
        return articles().take(GOOD)

    @pytest.fixture
    def bad_rows(self):
        return articles()


class TestFailingFilter(_Failing, ActionConformance):
    component = Filter

    @pytest.fixture
    def params(self):
        return FilterParams(where="coalesce(digits::INT, 9) > 1")


class TestFailingMap(_Failing, ActionConformance):
    component = Map

    @pytest.fixture
    def params(self):
        return MapParams(set={"number": "digits::INT", "half": "trim(digits)::DOUBLE / 2"})


class TestFailingBranch(_Failing, RouterConformance):
    component = Branch

    @pytest.fixture
    def params(self):
        routes = [
            {"name": "small", "when": "digits::INT < 3"},
            {"name": "english", "when": "lang = 'en'"},
        ]
        return BranchParams.model_validate({"routes": routes, "default": "rest"})


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


@pytest.mark.parametrize("zones", [["UTC", "Mars", None, "Europe/Paris", "?" * 5000], ["x"] * 3])
def test_rows_fail_on_their_own_where_no_try_helps(zones):
    batch = batch_of({"zone": zones})
    with pytest.raises(DataError) as caught:
        mapped(batch, set={"at": "TIMESTAMP '2026-01-01' AT TIME ZONE zone", "one": "1"})
    failing = [row for row, zone in enumerate(zones) if zone not in {"UTC", None, "Europe/Paris"}]
    assert list(caught.value.rows) == failing
    assert all("Unknown TimeZone" in reason for reason in caught.value.rows.values())
    assert all(len(reason) < 400 for reason in caught.value.rows.values())
    made = caught.value.result.to_pylist()
    assert [(row["zone"], row["at"] is None) for row in made] == [
        (zone, zone is None) for zone in zones if zone in {"UTC", None, "Europe/Paris"}
    ]


def test_what_fails_whatever_the_values_are_is_no_matter_of_records():
    with pytest.raises(ConfigError, match="Unknown TimeZone 'Mars'"):
        mapped(batch_of({"n": [1, 2, 3]}), set={"at": "timezone('Mars', TIMESTAMP '2026-01-01')"})


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
    spans = ["3 bad"] * 50 + [f"3 bad{'x' * i}" for i in range(50)] + ["3 bad", "1 day"]
    with pytest.raises(DataError) as failed:
        mapped(batch_of({"x": spans}), set={"n": "x::INTERVAL"})
    told = failed.value.rows
    assert sorted(told) == list(range(101))
    assert told[100] == told[0]
    assert 'extract specifier "bad" not recognized' in told[0]
    assert 'extract specifier "badxxxxxxx" not recognized' in told[57]
    assert told[99] == "expression 'set.n': it fails, like other rows of the batch"


EXPRESSIONS = [
    "x::INT",
    "X::DOUBLE + 1 > 2",
    "abs(x::INT) > 1 AND y = 'a'",
    "x::INT > 1 AND y::INT > 1",
    "CASE WHEN y = 'a' THEN x::INT ELSE y::INT END",
    "CASE WHEN x::INT > 1 THEN 'a' ELSE y END",
    "x::INT + x::TINYINT",
    "x::TINYINT + 100::TINYINT",
    "y = 'a' OR x::INT = 1",
    "coalesce(TRY(x::INT), y::INT)",
    "coalesce(x::INT, y::INT)",
    "trim(x)::INT",
    "nullif(x, '')::DECIMAL(4, 1)",
    "x::INT + y::INT",
    "x::INT::VARCHAR::DATE",
    "x::DATE + INTERVAL 1 DAY",
    "strptime(x, '%Y-%m-%d')::TIMESTAMP",
    "CASE WHEN y = 'a' THEN strptime(trim(x), '%b %d %Y') END",
    "x->>'$.a'",
    "(x->'$.a')::INT",
    "json_array_length(x) IS NULL",
    "[x, y]::INT[]",
    "x::INT IN (1, 2) OR NULL",
    "(x::INT + NULL) IS NULL",
]
TEXTS = [
    *("1", "300", "a", "", " 2 ", "1e400", "9" * 30, "'", "a\nb", '"', "nan", "12.34", "-7"),
    *("{}", "null", '{"a": null}', '{"a": 5}', '{"a": "b"}', '{"a": 1', "[1, 2]"),
    *("2024-02-03", "2024-02-30", "2024-2-3", "2024-02-03 25:00", "2024", "infinity", "n/a"),
]


def said_by_duckdb(expression: str, batch: pa.RecordBatch, row: int) -> str | None:
    """Why an expression fails on a row alone; the oracle, which runs it as it is written."""
    columns = batch.select(["x", "y"]).slice(row, 1)
    error = database.explained(f"(\n{expression}\n)", columns)
    return None if error is None else f"expression 'set.n': {reasons.message(error)}"


@pytest.mark.parametrize("expression", EXPRESSIONS)
@settings(max_examples=6, deadline=None)
@given(
    values=st.lists(
        st.tuples(
            st.one_of(
                st.none(),
                st.sampled_from(TEXTS),
                st.text(st.characters(exclude_categories=["Cs"])),
            ),
            st.sampled_from(["a", "1", "b", None]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_the_rows_that_fail_alone_fail_with_others_for_the_same_reason(expression, values):
    batch = batch_of(
        pa.record_batch({
            "x": pa.array([x for x, _ in values], pa.string()),
            "y": pa.array([y for _, y in values], pa.string()),
        })
    )
    alone = {row: said_by_duckdb(expression, batch, row) for row in range(batch.num_rows)}
    failing = {row: said for row, said in alone.items() if said is not None}
    good = batch.take(pa.array([row for row in alone if row not in failing], pa.int64()))
    if not failing:
        mapped(batch, set={"n": expression})
        return
    evaluation.memory_of.cache_clear()  # The good ones in the plain form.
    wanted = mapped(good, set={"n": expression})
    for _ in range(3):
        with pytest.raises(DataError) as failed:
            mapped(batch, set={"n": expression})
        assert failed.value.rows == failing
        assert failed.value.result.equals(wanted)


KINDS = [
    *("BOOLEAN", "TINYINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "UBIGINT", "UHUGEINT"),
    *("FLOAT", "DOUBLE", "DECIMAL(4, 1)", "DECIMAL(30, 2)", "UUID"),
    *("DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"),
]
DATED = [
    *("99999999-01-01", "-1-1", "2024-13-01", "2024-13-01 10:20:30", "2024-02-30T10:20", "2024-1"),
    *("2024-01-01 10:61", "2024-01-01 10:20:61", "2024-01-01 10:20:30+99", "x2024-01-01", "-", " "),
    *(
        "2024-01-01 10:20:30 Europe/Brlin",
        "2024/02/30",
        "24:00:01",
        "1:2:3:4",
        "123456",
        "12a",
        "é",
    ),
]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_of_one_text_is_said_rightly_of_the_others(kind):
    batch = batch_of({"x": [*TEXTS, *DATED], "y": ["a"] * (len(TEXTS) + len(DATED))})
    for place in range(0, batch.num_rows, 10):
        some = batch.slice(place, 10)
        alone = [said_by_duckdb(f"x::{kind}", some, row) for row in range(some.num_rows)]
        failing = {row: said for row, said in enumerate(alone) if said is not None}
        if failing:
            with pytest.raises(DataError) as failed:
                mapped(some, set={"n": f"x::{kind}"})
            assert failed.value.rows == failing


FORMS = ["%Y-%m-%d", "%d.%m.%Y %H:%M:%S", "%b %d %Y", "%Y-%j", "%G-W%V-%u", "x%d", "%I %p", "%z"]
TIMES = [
    *("Feb 30 2024", "Feb 3 2024", "30.02.2024 10:20:30", "2023-366", "2024-366", "2020-W53-1"),
    *("infinity", " -Infinity ", "epoch", "\vEPOCH\t", "infinity 2", "x30", "11 PM", "0000-00-00"),
    *("x2024-02-30", "+2024-02-30", "2024-W53-1", "-", "29.02.2023 10:20:30", "+01"),
]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_said_of_one_time_is_said_rightly_of_the_others(form):
    batch = batch_of({"x": [*TEXTS, *DATED, *TIMES], "y": ["a"] * len([*TEXTS, *DATED, *TIMES])})
    expression = f"strptime(x, '{form}')"
    for place in range(0, batch.num_rows, 10):
        some = batch.slice(place, 10)
        alone = [said_by_duckdb(expression, some, row) for row in range(some.num_rows)]
        failing = {row: said for row, said in enumerate(alone) if said is not None}
        good = some.take(
            pa.array([r for r in range(some.num_rows) if r not in failing], pa.int64())
        )
        evaluation.memory_of.cache_clear()  # The good ones in the plain form.
        wanted = mapped(good, set={"n": expression}) if good.num_rows else None
        for _ in range(2):
            with pytest.raises(DataError) as failed:
                mapped(some, set={"n": expression})
            assert failed.value.rows == failing
            assert wanted is None or failed.value.result.equals(wanted)


class Statements:
    """Counts what DuckDB is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queries = 0
        self.rows = 0
        self._select, self._explain = database.select, database.explained_rows
        monkeypatch.setattr(evaluation, "select", self.select)
        monkeypatch.setattr(tolerant, "select", self.select)
        monkeypatch.setattr(reasons, "explained_rows", self.explained_rows)

    def select(self, *args):
        self.queries += 1
        return self._select(*args)

    def explained_rows(self, sql, records, rows):
        self.rows += len(rows)
        return self._explain(sql, records, rows)


@pytest.mark.parametrize(
    "columns",
    [
        {"n": "x::INT"},
        {"n": "x::DECIMAL(10, 2) * 2", "m": "y::TIMESTAMP", "o": "upper(x)"},
        {"n": "trim(x)::BIGINT > 5", "m": "y::DATE"},
        {"n": "CASE WHEN x::INT > 5 THEN 'a' END", "m": "y->>'$.a'"},
        {"n": "strptime(y, '%Y-%m-%d %H:%M')"},
    ],
)
def test_bad_rows_of_known_casts_cost_no_statement_once_some_were_seen(columns, monkeypatch):
    bad = batch_of({
        "x": [f"no{i}" if i % 3 else "7" for i in range(90)],
        "y": [f"bad{i}" if i % 5 else "2024-01-01 10:20" for i in range(90)],
    })
    with pytest.raises(DataError):
        mapped(bad, set=columns)
    asked = Statements(monkeypatch)
    with pytest.raises(DataError) as failed:
        mapped(bad, set=columns)
    assert len(failed.value.rows) > 59
    assert (asked.queries, asked.rows) == (1, 0)


def test_a_column_of_an_odd_name_stays_what_it_is():
    batch = batch_of({"__nvisy_try_0": ["1", "x"], "x": ["a", "2"]})
    with pytest.raises(DataError) as failed:
        mapped(batch, set={"n": "x::INT + __nvisy_try_0::INT"})
    assert sorted(failed.value.rows) == [0, 1]


def test_clean_batches_run_in_the_plain_form_again(monkeypatch):
    bad, clean = batch_of({"x": ["1", "x"]}), batch_of({"x": ["1", "2"]})
    forms = []
    run = tolerant.Tolerant.run
    monkeypatch.setattr(tolerant.Tolerant, "run", lambda *args: forms.append(1) or run(*args))
    with pytest.raises(DataError):
        mapped(bad, set={"n": "x::INT"})
    for _ in range(evaluation.CALM_RUNS + 5):
        mapped(clean, set={"n": "x::INT"})
    assert len(forms) == 1 + evaluation.CALM_RUNS


def test_huge_integers_fail_instead_of_turning_into_other_numbers():
    batch = batch_of({"x": ["1", "99999999999999999999999999999999999999", "1" + "0" * 38]})
    with pytest.raises(DataError) as failed:
        mapped(batch, set={"n": "x::HUGEINT"})
    assert list(failed.value.rows) == [2]
