"""Finding the lines that may be bad, many at once: with DuckDB, if it is installed.

What it finds is only a suspicion: it is confirmed line by line, by the code that gives the reason.
Without DuckDB nothing is suspected, and the search of `jsonl_salvage` finds the same lines slowly.
"""

import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import pyarrow as pa

from nvisy_connectors.object.formats.line_table import Indexes, LineTable

_JSON = "select coalesce(json_valid(line), false) as fits from lines"
_BIG = r"[:,[]\s*-?[0-9.]+[eE][+]?[0-9]{3}"
_SMALL = f"select coalesce(not regexp_matches(line, '{_BIG}'), false) as fits from lines"  # noqa: S608 - our own SQL
_WHOLE = ("UBIGINT", "BIGINT")
_NUMBER = (*_WHOLE, "DOUBLE", "HUGEINT")


def json_lines(lines: LineTable, wanted: Indexes, confirm: Callable[[int], bool]) -> Indexes:
    """Those of some lines that are JSON, as far as can be told at once.

    Args:
        lines: The lines of a block.
        wanted: Which of them; they are UTF-8.
        confirm: Whether a suspected line is sound after all.
    """
    return _sieve(lines, wanted, _JSON, confirm)


def small_lines(lines: LineTable, wanted: Indexes, confirm: Callable[[int], bool]) -> Indexes:
    """Those of some lines without a number too big for a float; what is left to `confirm`."""
    return _sieve(lines, wanted, _SMALL, confirm)


def typed_lines(
    lines: LineTable,
    wanted: Indexes,
    schema: pa.Schema,
    confirm: Callable[[int], bool],
    *,
    no_others: bool,
) -> Indexes:
    """Those of some JSON objects that fit a schema, as far as can be told at once.

    Args:
        lines: The lines of a block.
        wanted: Which of them; they are JSON objects.
        schema: What they must fit.
        confirm: Whether a suspected line is sound after all.
        no_others: Whether a field that is not in the schema is suspicious too; slower.
    """
    return _sieve(lines, wanted, _typed(schema, no_others=no_others), confirm)


def _sieve(
    lines: LineTable, wanted: Indexes, query: str, confirm: Callable[[int], bool]
) -> Indexes:
    if not _has_duckdb() or not len(wanted):
        return wanted
    relation = _cursor().from_arrow(pa.table({"line": lines.texts(wanted)}))
    fits = relation.query("lines", query).to_arrow_table().column("fits").to_numpy()[wanted]
    fits[~fits] = [confirm(int(index)) for index in wanted[~fits]]
    return wanted[fits]


def _typed(schema: pa.Schema, *, no_others: bool) -> str:
    """SQL that is true for the lines whose fields are of the kinds of the columns."""
    fields = [field for field in schema if not set(field.name) & set("\"\\\\'")]
    paths = ", ".join(f"'$.\"{field.name}\"'" for field in fields)
    # In a query of its own the kinds are worked out once; outside of it they have the name `k`.
    read = f"json_type(line, [{paths}]::varchar[]) as k"
    tests = [
        f"coalesce(k[{place}] in ({_listed(_kinds(field.type))}), true)"
        for place, field in enumerate(fields, 1)
    ]
    if no_others and len(fields) == len(schema):
        read += ", len(json_keys(line)) as keys"
        tests.append("coalesce(keys = list_count(k), true)")
    test = " and ".join(tests or ["true"])
    return f"select {test} as fits from (select {read} from lines)"  # noqa: S608 - our own SQL


def _kinds(kind: pa.DataType) -> Sequence[str]:
    types = pa.types
    if types.is_boolean(kind):
        return ["BOOLEAN"]
    if types.is_integer(kind):
        return _WHOLE
    if types.is_floating(kind) or types.is_decimal(kind):
        return _NUMBER
    if types.is_list(kind):
        return ["ARRAY"]
    if types.is_struct(kind):
        return ["OBJECT"]
    return [] if types.is_null(kind) else ["VARCHAR"]


def _listed(kinds: Sequence[str]) -> str:
    return ", ".join(f"'{kind}'" for kind in ("NULL", *kinds))


class _Local(threading.local):
    cursor: Any = None


_local = _Local()
_opening = threading.Lock()


def _cursor() -> Any:  # noqa: ANN401 - imported when used
    if _local.cursor is None:
        with _opening:
            _local.cursor = _database().cursor()
    return _local.cursor


@cache
def _database() -> Any:  # noqa: ANN401 - imported when used
    import duckdb

    database = duckdb.connect(
        ":memory:",
        config={
            "threads": "1",
            "temp_directory": "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        },
    )
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database


@cache
def _has_duckdb() -> bool:
    return find_spec("duckdb") is not None
