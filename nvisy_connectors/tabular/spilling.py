"""A DuckDB of one action's own, which writes to disk what does not fit in its memory."""

import errno
import os
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from pydantic import AfterValidator, Field

from nvisy_dagster.sdk import DataError

if TYPE_CHECKING:
    import duckdb

RECORDS = "__nvisy_records__"
"""The table that a query reads."""
ROW = "__nvisy_row__"
"""Column of that table: the place of a record among all of them."""

THREADS = 2

_DISK_LIMIT = "max_temp_directory_size"
"""DuckDB names it where the free space of the disk does not do."""

LEAST_MEMORY_MB = 256
"""With less, merging what is on disk may fail."""


def _enough(limit: str) -> str:
    number, unit = int(limit[:-2]), limit[-2:]
    if number * (1000 if unit == "GB" else 1) < LEAST_MEMORY_MB:
        raise ValueError(f"at least {LEAST_MEMORY_MB}MB are needed")
    return limit


MemoryLimit = Annotated[
    str, Field(pattern=r"^[1-9][0-9]{0,5}[MG]B$", examples=["512MB"]), AfterValidator(_enough)
]
"""Memory that it may take before it writes to disk."""


class Spilling:
    """Opens the databases of an action, and ends what they do when asked to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._failed: BaseException | None = None
        """Why what a query reads could not be told."""

    def noted(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Batches for a query; what fails in reading them is raised as it is, not as DuckDB's."""
        try:
            yield from batches
        except GeneratorExit:
            raise
        except BaseException as error:
            self._failed = error
            raise

    @contextmanager
    def database(
        self, scratch: Path, memory_limit: str, threads: int | None = None
    ) -> "Generator[duckdb.DuckDBPyConnection]":
        """A database in memory that spills into a folder.

        Args:
            scratch: The folder.
            memory_limit: What it may take before it does.
            threads: How many it works with.

        Raises:
            OSError: The disk is full.
            DataError: Even with what is on disk, its memory does not do.
        """
        import duckdb

        self._failed = None
        connection = duckdb.connect(
            ":memory:",
            config={
                "threads": str(threads or min(THREADS, os.cpu_count() or 1)),
                "memory_limit": memory_limit,
                "temp_directory": str(scratch),
                "preserve_insertion_order": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "allow_community_extensions": "false",
                "python_enable_replacements": "false",
            },
        )
        try:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET enable_progress_bar = false")  # it goes to standard output
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            with self._lock:
                self._connection = connection
            with self._readable_errors(scratch, memory_limit):
                yield connection
        finally:
            with self._lock:
                self._connection = None
            connection.close()

    def interrupt(self) -> None:
        """End the query that is under way."""
        with self._lock:
            if self._connection is not None:
                self._connection.interrupt()

    @contextmanager
    def _readable_errors(self, scratch: Path, memory_limit: str) -> Generator[None]:
        import duckdb

        try:
            yield
        except duckdb.Error as error:
            if (failed := self._failed) is not None:
                self._failed = None
                raise failed from None
            first_line = str(error).partition("\n")[0]
            if isinstance(error, duckdb.OutOfMemoryException) and _DISK_LIMIT not in str(error):
                raise DataError(
                    f"it takes more than {memory_limit} of memory: {first_line}",
                    rows={},
                    remedy='raise "memory_limit"',
                    tag="memory",
                ) from error
            if isinstance(error, duckdb.OutOfMemoryException):
                full = f"the disk is full: {first_line}"
                raise OSError(errno.ENOSPC, full, str(scratch)) from error
            if isinstance(error, duckdb.IOException):
                no_room = os.strerror(errno.ENOSPC) in first_line
                code = errno.ENOSPC if no_room else errno.EIO
                raise OSError(code, first_line, str(scratch)) from error
            raise


def numbered(batches: Iterable[pa.RecordBatch]) -> pa.RecordBatchReader | None:
    """Batches as one stream with the column `ROW` behind the others; `None` if there are none."""
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        return None
    schema = first.schema.append(pa.field(ROW, pa.int64()))
    return pa.RecordBatchReader.from_batches(schema, _numbered(chain([first], rest), schema))


def _numbered(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches:
        end = start + batch.num_rows
        arrays: list[Any] = [*batch.columns, pa.arange(start, end)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        start = end
