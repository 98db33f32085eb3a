"""Conditions of published graphs become expressions that keep what they keep there."""

from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvisy_dagster.graph.nvisy_params import identifier, literal, where

QUOTES = st.text("'\"\\;- a", max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8) | QUOTES


@given((st.text(max_size=20) | QUOTES).map(lambda s: "a" + s.replace("\0", "")), SCALARS)
def test_names_and_values_are_quoted_so_that_nothing_gets_out(name, value):
    if isinstance(value, str):
        value = value.replace("\0", "")
    sql = f"SELECT {literal(value)} AS {identifier(name)}"
    relation = duckdb.sql(sql)
    assert relation.columns == [name]
    assert relation.fetchall() == [(value,)]


def keeps(op: str, value: Any) -> list[Any]:
    errors: list[Any] = []
    condition = {"column": "a", "op": op, "value": value}
    expression = where({"conditions": [condition]}, (), errors.append)
    assert not errors
    rows = duckdb.sql(f"SELECT a FROM (VALUES (1), (2), (NULL)) t(a) WHERE {expression}")
    return [a for (a,) in rows.fetchall()]


@pytest.mark.parametrize(
    ("op", "value", "expected"),
    [
        ("eq", 1, [1]),
        ("eq", None, [None]),
        ("neq", 1, [2, None]),
        ("neq", None, [1, 2]),
        ("gt", 1, [2]),
        ("gte", 1, [1, 2]),
        ("lt", 2, [1]),
        ("lte", 2, [1, 2]),
        ("in", [1, 3], [1]),
        ("in", [1, None], [1, None]),
        ("in", [], []),
        ("notIn", [1], [2, None]),
        ("notIn", [1, None], [2]),
        ("notIn", [None], [1, 2]),
        ("notIn", [], [1, 2, None]),
        ("isNull", None, [None]),
        ("isNotNull", None, [1, 2]),
    ],
)
def test_every_operator_keeps_what_it_keeps_there(op, value, expected):
    assert keeps(op, value) == expected


def test_modes_combine():
    one, two = ({"column": "a", "op": "eq", "value": v} for v in (1, 2))
    errors: list[Any] = []
    either = where({"conditions": [one, two], "mode": "or"}, (), errors.append)
    assert either == '("a" = 1) OR ("a" = 2)'
    assert where({"conditions": [], "mode": "or"}, (), errors.append) == "FALSE"
