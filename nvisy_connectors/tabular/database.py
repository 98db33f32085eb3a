"""The embedded DuckDB of this process: no files, no network, no settings, one cursor per thread."""

import json
import os
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from nvisy_connectors.tabular import limits
from nvisy_dagster.sdk import DataError

if TYPE_CHECKING:
    import duckdb

TABLE = "__nvisy_batch__"
"""Name under which a query sees the batch; odd, so that no column of a user is taken for it."""

MAX_DEPTH = 128
"""Deepest tree that the parser makes of an expression."""

MEMORY_LIMIT = "1GB"
"""What DuckDB may take; it does not count what a function makes of one value, see `costs`."""

_CONFIG: "dict[str, str | bool | int | float | list[str]]" = {
    # A query runs in the thread that asks for it; parallelism comes from batches.
    "threads": "1",
    "memory_limit": MEMORY_LIMIT,
    # Row-wise work never spills, so there is no folder that an escape could write to.
    "temp_directory": "",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    # DuckDB 2.0.0 hoists common subexpressions out of TRY, which then throws.
    "disabled_optimizers": "common_subexpressions",
    "errors_as_json": "true",
    "max_expression_depth": str(MAX_DEPTH),
}
_LOCK_DOWN = (
    # Otherwise the zone of the machine decides what a record becomes.
    "SET TimeZone = 'UTC'",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


class _Process:
    def __init__(self) -> None:
        import duckdb

        self.pid = os.getpid()
        self.watchdog = limits.Watchdog()
        self.database = duckdb.connect(":memory:", config=_CONFIG)
        for statement in _LOCK_DOWN:
            self.database.execute(statement)


class _Thread(threading.local):
    owner: _Process | None = None
    cursor: "duckdb.DuckDBPyConnection | None" = None


_lock = threading.Lock()
_thread = _Thread()
_processes: list[_Process] = []


def cursor() -> "duckdb.DuckDBPyConnection":
    """The cursor of this thread; it dies with the thread."""
    process = _process()
    if _thread.owner is not process or _thread.cursor is None:
        _thread.owner = process
        _thread.cursor = process.database.cursor()
    return _thread.cursor


def select(expressions: str, records: pa.RecordBatch, layers: Sequence[str] = ()) -> pa.Table:
    """Evaluate SQL expressions, separated by commas, on each row of `records`, in order.

    Args:
        expressions: What is evaluated.
        records: The columns that they read.
        layers: Expressions with names, which those of later layers and `expressions` read as
            columns; each is evaluated once however often it is read.

    Raises:
        duckdb.Error: They do not fit the columns, or fail on some row.
    """
    with _registered(records) as connection:
        return connection.sql(_statement(expressions, layers)).to_arrow_table()


def column_types(
    expressions: str, records: pa.RecordBatch, layers: Sequence[str] = ()
) -> list[str]:
    """Names of DuckDB's own types of expressions over `records`; for `layers` see `select`.

    Raises:
        duckdb.Error: They do not fit the columns.
    """
    with _registered(records) as connection:
        return [str(kind) for kind in connection.sql(_statement(expressions, layers)).types]


def explained(expressions: str, records: pa.RecordBatch) -> Exception | None:
    """The error of expressions that cannot be evaluated, with what `error_details` reads.

    Only a statement that is executed tells it; one that is made a relation has a text for people.
    """
    import duckdb

    with _registered(records) as connection:
        try:
            with _readable_errors():
                connection.execute(_statement(expressions)).fetchall()
        except duckdb.Error as error:
            return error
    return None


def explained_rows(
    expressions: str, records: pa.RecordBatch, rows: Sequence[int]
) -> list[Exception | None]:
    """The error of expressions on each of some rows, each row alone; `None` where there is none."""
    import duckdb

    errors: list[Exception | None] = []
    with _registered(records) as connection:
        for row in rows:
            one = f"{_statement('*')} LIMIT 1 OFFSET {row}"
            try:
                with _readable_errors():
                    connection.execute(f"SELECT {expressions}\nFROM ({one}) AS {TABLE}").fetchall()
            except (
                duckdb.FatalException,
                duckdb.InternalException,
                duckdb.InterruptException,
                duckdb.OutOfMemoryException,
            ):
                raise
            except duckdb.Error as error:
                errors.append(error)
            else:
                errors.append(None)
    return errors


def _statement(expressions: str, layers: Sequence[str] = ()) -> str:
    # Expressions of users come here only after they were held against the allow-list.
    table = TABLE
    for layer in layers:
        table = f"(SELECT *, {layer}\nFROM {table}) AS {TABLE}"
    return f"SELECT {expressions}\nFROM {table}"


@contextmanager
def _readable_errors() -> "Generator[None]":
    import duckdb

    try:
        yield
    except UnicodeDecodeError as error:
        # DuckDB cuts the texts that it shows in the middle of a character.
        raise duckdb.InvalidInputException(error.object.decode(errors="replace")) from None


@contextmanager
def _registered(records: pa.RecordBatch) -> "Generator[duckdb.DuckDBPyConnection]":
    import duckdb

    connection = cursor()
    connection.register(TABLE, limits.vectors(records))
    try:
        with _process().watchdog.watched(connection), _readable_errors():
            yield connection
    except duckdb.InterruptException:
        raise DataError(
            f"the expressions take longer than {limits.TIME_LIMIT_SECONDS:g} s on {_some(records)}",
            rows={},
            remedy="make them simpler, or the records smaller",
            tag=limits.TIME_TAG,
        ) from None
    except duckdb.OutOfMemoryException as error:
        raise DataError(
            f"the expressions take more than {MEMORY_LIMIT} of memory on {_some(records)}",
            rows={},
            remedy="make them simpler, or the records smaller",
            tag=limits.MEMORY_TAG,
        ) from error
    except (duckdb.FatalException, duckdb.InternalException):
        # DuckDB refuses all further work in a database that met a fault of its own.
        _forget()
        raise
    finally:
        connection.unregister(TABLE)


def _some(records: pa.RecordBatch) -> str:
    return "one record" if records.num_rows == 1 else f"{records.num_rows} records"


def ask(sql: str, *values: str) -> list[tuple[Any, ...]]:
    """All rows of a query of our own with parameters.

    Raises:
        duckdb.Error: The query fails on these values.
    """
    # A cursor with a result that was not read to its end refuses the next query.
    return cursor().execute(sql, list(values)).fetchall()


def syntax_trees(first: str, second: str) -> tuple[str, str]:
    """The parse trees of two statements as JSON, or `error_message` and `position` (a byte)."""
    [trees] = ask("SELECT json_serialize_sql($1::VARCHAR), json_serialize_sql($2)", first, second)
    return trees


def syntax_trees_of(statements: Sequence[str]) -> list[str]:
    """The parse trees of many statements, as JSON, in their order."""
    sql = "SELECT json_serialize_sql(sql) FROM (SELECT unnest($1::VARCHAR[]) AS sql)"
    rows = cursor().execute(sql, [list(statements)]).fetchall()
    return [tree for (tree,) in rows]


def sql_texts(trees: Sequence[str]) -> list[str]:
    """The SQL of parse trees of statements, in their order.

    Raises:
        duckdb.Error: One of them is not a tree.
    """
    sql = "SELECT json_deserialize_sql(tree::JSON) FROM (SELECT unnest($1::VARCHAR[]) AS tree)"
    rows = cursor().execute(sql, [list(trees)]).fetchall()
    return [text for (text,) in rows]


def error_details(error: Exception) -> dict[str, str]:
    """What DuckDB tells of an error: `exception_message`, `position` (a byte offset), ..."""
    text = str(error)
    try:
        found = json.loads(text[text.index("{") :])
    except ValueError:
        found = None
    if isinstance(found, dict) and "exception_message" in found:
        return cast("dict[str, str]", found)
    return {"exception_message": text}


def _process() -> _Process:
    # A forked child must not use the database of its parent, whose locks may be held for ever.
    with _lock:
        if not _processes or _processes[-1].pid != os.getpid():
            _processes.append(_Process())
        return _processes[-1]


def _forget() -> None:
    with _lock:
        _processes.clear()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - the parent's lock may be held by a thread that is not here
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
