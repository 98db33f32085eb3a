"""The expression language: what it refuses, what it tells, how names and values are quoted."""

import subprocess
import sys
import time
from itertools import pairwise

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tabular_batches import articles, batch_of

from nvisy_connectors.tabular.allow_list import FUNCTIONS
from nvisy_connectors.tabular.database import cursor
from nvisy_connectors.tabular.expression import parse_expression
from nvisy_connectors.tabular.filter import Filter, FilterParams
from nvisy_connectors.tabular.map import Map, MapParams
from nvisy_dagster.sdk import ConfigError, DataError, EdgeType

ESCAPES = [
    # statements and clauses around the expression
    "1; DROP TABLE x",
    "1) FROM x --",
    "true) FROM read_text('/etc/passwd') --",
    "text FROM read_text('/etc/passwd'), (SELECT 1",
    "a) + (b",
    "true) OR (true",
    "true WHERE true",
    "true) WHERE (true",
    "true ORDER BY 1",
    "true LIMIT 1",
    "true UNION SELECT true",
    "true) UNION (SELECT true",
    "true GROUP BY ALL",
    "true, false",
    "true AS x",
    "lang IS DISTINCT",
    "/* open",
    "'open",
    "$$open",
    "true; SELECT 1",
    "COPY x TO 'f'",
    "SET threads = 4",
    "PRAGMA database_list",
    "",
    "  -- nothing",
    # subqueries, tables, files
    "(SELECT true)",
    "EXISTS (SELECT 1)",
    "text IN (SELECT content FROM read_text('/etc/passwd'))",
    "text = ANY(['a'])",
    "ARRAY(SELECT 1) IS NULL",
    "read_text('/etc/passwd') IS NULL",
    "read_csv('/etc/passwd') IS NULL",
    "glob('/*') IS NULL",
    "query('SELECT 1') IS NULL",
    "query_table('x') IS NULL",
    "unnest([true])",
    "range(1000000000) IS NULL",
    "generate_series(1, 1000000000) IS NULL",
    "json_execute_serialized_sql('') IS NULL",
    "json_serialize_sql('SELECT 1') IS NULL",
    "from_substrait('') IS NULL",
    # many rows at once
    "sum(score) > 1",
    "count(*) > 1",
    "list(text) IS NULL",
    "row_number() OVER () = 1",
    "lag(text) OVER () = 'a'",
    "grouping(text) = 1",
    "* IS NULL",
    "COLUMNS(*) = 'a'",
    "COLUMNS('te.*') = 'a'",
    "#1 = 'a'",
    "? = 'a'",
    "$1 = 'a'",
    "$name = 'a'",
    "list_filter([1], lambda x: x > 0) IS NULL",
    "len([x for x in [1, 2]]) = 2",
    "list_reduce([1], (x, y) -> x + y) = 1",
    # settings, environment, catalog
    "current_setting('memory_limit') = 'a'",
    "getenv('HOME') = 'a'",
    "getvariable('x') = 'a'",
    "current_database() = 'a'",
    "current_user() = 'a'",
    "current_schemas(true) IS NULL",
    "version() = 'a'",
    "pg_typeof(text) = 'a'",
    "nextval('x') = 1",
    "setseed(0.5) IS NULL",
    "write_log('x') IS NULL",
    "error('x') IS NULL",
    "sleep_ms(1000) IS NULL",
    "pg_sleep(1) IS NULL",
    "txid_current() = 1",
    "in_search_path('a', 'b')",
    "col_description(1, 1) IS NULL",
    # another result at a replay
    "random() > 0.5",
    "now() IS NULL",
    "today() IS NULL",
    "uuid() IS NULL",
    "gen_random_uuid() IS NULL",
    "current_localtimestamp() IS NULL",
    "age(_created_at) IS NULL",
    "ago(INTERVAL 1 DAY) IS NULL",
    "hash(text) = 1",
    # other ways to call what is refused
    "RANDOM() > 0.5",
    '"random"() > 0.5',
    "main.random() > 0.5",
    "system.main.random() > 0.5",
    "text.repeat(9) = 'a'",
    "text.lower() = 'a'",
    "lower(DISTINCT text) = 'a'",
    "lower(text ORDER BY text) = 'a'",
    "lower(text) FILTER (WHERE true) = 'a'",
    "lower(string := text) = 'a'",
    "list_aggregate([1], 'histogram') IS NULL",
    "list_aggr([1], 'sum') = 1",
    "text COLLATE NOCASE = 'a'",
    "TRY(repeat('x', 9)) = 'a'",
    "CASE WHEN true THEN random() > 0.5 END",
    "[random()] IS NULL",
    "{'a': random()}.a > 0.5",
    "[1][random()::INT] = 1",
    "score BETWEEN random() AND 1",
    # types with a life of their own
    "text::ENUM('a') = 'a'",
    "NULL::INT[100000000] IS NULL",
    "NULL::STRUCT(a INT[100000000]) IS NULL",
    "text::main.mytype IS NULL",
    "'1'::BIT IS NULL",
    "'1'::BIGNUM IS NULL",
    "text::UNION(a INT) IS NULL",
    "text::VARIANT IS NULL",
]

BOMBS = [
    "repeat(text, 1000000000) = 'a'",
    "lpad(text, 1000000000, 'x') = 'a'",
    "rpad(text, 1000000000, 'x') = 'a'",
    "printf('%1000000000d', 1) = 'a'",
    "format('{:>1000000000}', text) = 'a'",
    "bar(1, 0, 1, 1000000000) = 'a'",
    "list_resize([1], 1000000000) IS NULL",
    "bitstring('0', 1000000000) IS NULL",
    "to_base(1, 2, 1000000000) = 'a'",
    "replace(text, 'a', text) = 'a'",
    "replace(text, '', repeat('x', 99)) = 'a'",
    "replace(" * 3 + "text" + ", 'a', 'aaaaaaaa')" * 3 + " = 'a'",
    "regexp_replace(" * 3 + "text" + ", 'a', 'aaaaaaaa', 'g')" * 3 + " = 'a'",
    "regexp_replace(text, '', text, 'g') = 'a'",
    "regexp_replace(" * 7 + "text" + ", 'x?', 'a', 'g')" * 7 + " = 'a'",
    "hex(" * 12 + "text" + ")" * 12 + " = 'a'",
    "array_to_string(string_split(text, ''), text) = 'a'",
    "concat_ws(text, text, text) = 'a'",
    "array_to_string(" * 2 + "string_split(text, ' ')" + ", 'abcdefgh')" * 2 + " = 'a'",
    "||".join(["text"] * 110) + " = 'a'",
    "to_json([" * 5 + "text" + "])" * 5 + " IS NULL",
    "json_extract(text, '$..*') IS NULL",
    "json_extract(text, text) IS NULL",
    "text -> '$.**.a' IS NULL",
    "(text -> text) IS NULL",
    "strftime(_created_at, text) = 'a'",
    f"strftime(_created_at, '{'%A' * 500}') = 'a'",
    f"text || '{'x' * 9000}' = 'a'",
    "(" * 100 + "true" + ")" * 100,
    "(" * 5000,
    "not " * 3000 + "true",
    "case when true then " * 200 + "true" + " end" * 200,
    " + ".join(["1"] * 500) + " = 1",
    "score in (" + "1," * 6000 + "1)",
    "true or " * 4000 + "true",
    "a\0b = 1",
    "text = '\ud800'",
]


@pytest.mark.parametrize("text", ESCAPES + BOMBS, ids=lambda text: ascii(text[:40]))
def test_is_refused_quickly_before_the_schema_is_known(text):
    started = time.monotonic()
    with pytest.raises(ConfigError) as refused:
        parse_expression("where", text)
    assert time.monotonic() - started < 30
    assert str(refused.value).startswith("expression 'where': ")
    assert len(str(refused.value)) < 600


OF_THE_MOMENT = ["current_date", "current_timestamp", "localtime", "current_user", "user", "rowid"]


@pytest.mark.parametrize("name", OF_THE_MOMENT)
def test_words_that_sql_reads_as_calls_are_columns_or_nothing(name):
    with pytest.raises(ConfigError, match=f"there is no column '{name}'"):
        Filter(FilterParams(where=f"{name} IS NULL")).transform(articles())
    assert Filter(FilterParams(where=f"{name} = 7")).transform(batch_of({name: [7]})).num_rows == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lowr(text) = 'a'", r"there is no function 'lowr' \(at character 1\) .*'lower'"),
        ("text = 'ü' AND repeat('a', 2) = ''", r"'repeat' is not allowed \(at character 16\)"),
        ("text = 'a' bad", r"\(at character 12\)"),
        ("text = 'ü' AND AND true", r"syntax error .* \(at character 16\)"),
        ("text =", "ends too early"),
        ("random() > 1", "volatile, so a replay would make other records"),
        ("avg(score) > 1", "an expression sees one record at a time"),
        ("read_text('/x') = ''", "table function 'read_text' is not allowed"),
        ("replace(text, 'a', lang) = ''", r"argument of 'replace' must be a literal"),
    ],
)
def test_errors_name_the_place_and_the_remedy(text, told):
    with pytest.raises(ConfigError, match=told):
        parse_expression("where", text)


def test_errors_of_types_name_the_place():
    action = Filter(FilterParams(where="lang = 'ü' AND lower(score) = 'a'"))
    with pytest.raises(
        ConfigError, match=r"lower\(DOUBLE\) \(at character 16\).*lower\(string VAR"
    ):
        action.output(EdgeType("row", articles().schema))


@pytest.mark.parametrize(
    "text",
    [
        " || ".join(f"c{i}" for i in range(40)),
        "regexp_replace(" * 20 + "text" + r", '\s+', ' ', 'g')" * 20,
        "trim(" * 10 + "text" + ")" * 10,
        "array_to_string(string_split(lower(text), ' '), ', ')",
        "_metadata ->> '$.a[*].b'",
        "CASE lang WHEN 'en' THEN 'English' WHEN 'de' THEN 'German' ELSE upper(lang) END",
        "date_trunc('day', _created_at) - INTERVAL 3 DAY",
        "extract(year FROM _created_at)",
        "text SIMILAR TO 'a+' OR text NOT ILIKE '%x%' ESCAPE '!'",
        "coalesce(try_cast(text AS DECIMAL(10, 2)), 0)",
        "{'a': [text], 'b': map {'k': 1}}",
        "text[1:3] || (_source).uri",
        "'it''s $1, 100% #1 -- ; (' || $$dollar ' quoted$$ /* note */",
        "score in (" + "1," * 4000 + "1)",
    ],
)
def test_what_people_write_is_allowed(text):
    assert parse_expression("set.x", text).text == text


def test_every_allowed_function_exists_and_is_a_deterministic_scalar():
    rows = duckdb.sql(
        "SELECT function_name, function_type, stability FROM duckdb_functions()"
    ).fetchall()
    kinds: dict[str, set[tuple[str, str | None]]] = {}
    for name, kind, stability in rows:
        kinds.setdefault(name, set()).add((kind, stability))
    for name in FUNCTIONS:
        assert kinds.get(name), f"{name} does not exist"
        assert kinds[name] & {("scalar", "CONSISTENT"), ("macro", None)}, (name, kinds[name])
        assert not {k for k, _ in kinds[name]} & {"aggregate", "table", "table_macro"}, name
        assert not {s for _, s in kinds[name]} & {"VOLATILE", "CONSISTENT_WITHIN_QUERY"}, name


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO '/tmp/nvisy_escape.csv'",
        "ATTACH '/tmp/nvisy_escape.db'",
        "SET enable_external_access = true",
        "SET threads = 8",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM frame",
    ],
)
def test_the_database_itself_is_locked_down(statement):
    frame = pa.table({"a": [1]})
    assert frame.num_rows
    with pytest.raises(duckdb.Error):
        cursor().execute(statement).fetchall()


def test_a_forked_child_gets_a_database_of_its_own():
    script = """
import os
from nvisy_connectors.tabular.database import ask
assert ask("SELECT $1", "parent") == [("parent",)]
child = os.fork()
if child == 0:
    os._exit(0 if ask("SELECT $1", "child") == [("child",)] else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=180)


def test_size_bounds_hold_for_what_runs():
    text = "aaaa " * 50
    batch = batch_of({"text": [text]})
    for expression in (
        "replace(text, 'a', 'bbb')",
        "regexp_replace(text, 'x?', 'yy', 'g')",
        "regexp_replace(text, 'a', 'yyy', 'g')",
        "array_to_string(string_split(text, ' '), '----')",
        "hex(text)",
        "to_json([text])",
        "url_encode(text)",
        "regexp_escape(text)",
        "text || text || text",
    ):
        whole = dict(parse_expression("x", expression).sizes)
        made = Map(MapParams(set={"x": expression})).transform(batch)
        assert len(str(made.column("x")[0])) <= whole["text"] * len(text) + 100, expression


NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
).filter(lambda name: not name.startswith("_"))


@settings(max_examples=60, deadline=None)
@given(name=NAMES, value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_quoted_names_and_literals_mean_themselves(name, value):
    quoted, literal = '"' + name.replace('"', '""') + '"', "'" + value.replace("'", "''") + "'"
    batch = batch_of({name: [value, value + "x", None]})
    found = Filter(FilterParams(where=f"{quoted} = {literal}")).transform(batch)
    assert found.column(name).to_pylist() == [value]
    made = Map(MapParams(set={"out": f"{quoted} || {literal}"})).transform(batch)
    assert made.column("out").to_pylist() == [value * 2, value + "x" + value, None]


def failing_rows(action: Filter, batch: pa.RecordBatch) -> set[int]:
    try:
        action.transform(batch)
    except DataError as error:
        return set(error.rows)
    return set()


VALUES = st.lists(st.one_of(st.none(), st.sampled_from(["1", "22", "x", ""])), min_size=1)


@settings(max_examples=60, deadline=None)
@given(values=VALUES, cuts=st.lists(st.integers(0, 30)))
def test_cuts_change_neither_rows_nor_failures(values, cuts):
    batch = batch_of({"v": pa.array(values, pa.string())})
    places = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    action = Filter(FilterParams(where="v::INT > 1"))
    kept: list[bytes] = []
    failed: set[int] = set()
    for start, stop in pairwise(places):
        part = batch.slice(start, stop - start)
        bad = failing_rows(action, part)
        failed |= {start + row for row in bad}
        good = pa.array([i not in bad for i in range(part.num_rows)])
        kept += action.transform(part.filter(good)).column("_id").to_pylist()
    ids = batch.column("_id").to_pylist()
    assert kept == [ids[i] for i, value in enumerate(values) if value == "22"]
    assert failed == {i for i, value in enumerate(values) if value in {"x", ""}}
