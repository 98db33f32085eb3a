"""Finding the lines that may be bad, many at once: with DuckDB, if it is installed.

What it finds is only a suspicion: it is confirmed line by line, by the code that gives the reason.
Without DuckDB nothing is suspected, and the search of `jsonl_salvage` finds the same lines slowly.
"""

import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa

from nvisy_connectors.object.formats.jsonl_errors import is_json, mismatch
from nvisy_connectors.object.formats.line_table import Indexes, LineTable, Mask

_JSON = "json_valid(line)"
_WHOLE = ("UBIGINT", "BIGINT")
_NUMBER = (*_WHOLE, "DOUBLE", "HUGEINT")


def json_lines(lines: LineTable, wanted: Indexes) -> Mask:
    """Which of some lines are JSON objects, as far as can be told at once."""
    return _sieve(lines, wanted, _JSON, is_json)


def typed_lines(lines: LineTable, wanted: Indexes, schema: pa.Schema, *, declared: bool) -> Mask:
    """Which of some JSON objects fit a schema, as far as can be told at once."""

    def fits(data: bytes) -> bool:
        return mismatch(data, schema, declared=declared) is None

    return _sieve(lines, wanted, _condition(schema, declared=declared), fits)


def _sieve(
    lines: LineTable, wanted: Indexes, condition: str, confirm: Callable[[bytes], bool]
) -> Mask:
    passed = np.ones(len(wanted), np.bool_)
    if not _has_duckdb() or not len(wanted):
        return passed
    relation = _database().from_arrow(pa.table({"line": lines.texts(wanted)}))
    query = f"select coalesce({condition}, false) as fits from lines"  # noqa: S608 - our own SQL
    fits = relation.query("lines", query).to_arrow_table().column("fits").to_numpy()
    for place in np.flatnonzero(~fits):
        passed[place] = confirm(lines.line(int(wanted[place])))
    return passed


def _condition(schema: pa.Schema, *, declared: bool) -> str:
    """SQL that is true for the lines whose fields are there and of the kinds of the columns."""
    fields = [field for field in schema if not set(field.name) & set("\"\\\\'")]
    paths = ", ".join(f"'$.\"{field.name}\"'" for field in fields)
    kinds = f"json_type(line, [{paths}]::varchar[])"
    tests = [
        f"coalesce({kinds}[{place}], 'NULL') in ({_listed(_kinds(field.type))})"
        for place, field in enumerate(fields, 1)
    ]
    if not declared and len(fields) == len(schema):
        tests.append(f"len(json_keys(line)) = len(list_filter({kinds}, lambda k: k is not null))")
    return " and ".join(tests or ["true"])


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
    database: Any = None


_local = _Local()


def _database() -> Any:  # noqa: ANN401 - imported when used
    if _local.database is None:
        import duckdb

        _local.database = duckdb.connect(
            ":memory:",
            config={
                "threads": "1",
                "temp_directory": "",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "python_enable_replacements": "false",
            },
        )
        _local.database.execute("SET enable_external_access = false")
        _local.database.execute("SET lock_configuration = true")
    return _local.database


@cache
def _has_duckdb() -> bool:
    return find_spec("duckdb") is not None
