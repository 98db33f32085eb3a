"""Limits on a query while it runs, kept from outside of it.

A thread interrupts what runs for too long. DuckDB looks for that between vectors, not within one
call of a function: what one call may take is bounded before, see `costs`.
"""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from nvisy_connectors.tabular.arrow_types import unsliced

if TYPE_CHECKING:
    import duckdb

TIME_LIMIT_SECONDS = 30.0
"""Longest that one query over one batch may run."""
TICK_SECONDS = 0.5
"""How often it is looked at."""
VECTOR_BYTES = 128 << 10
"""Bytes of records that are computed between two looks at the interrupt, where calls are costly."""

TIME_TAG = "time_limit"
MEMORY_TAG = "memory_limit"

_MARK = {b"nvisy_vector_bytes": str(VECTOR_BYTES).encode()}


class _Running:
    def __init__(self, connection: "duckdb.DuckDBPyConnection") -> None:
        self.connection = connection
        self.since = time.monotonic()


class Watchdog:
    """Interrupts the queries of one process that run for too long."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[_Running] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watched(self, connection: "duckdb.DuckDBPyConnection") -> Generator[None]:
        """Interrupt the connection if what runs inside takes longer than it may."""
        running = _Running(connection)
        with self._lock:
            self._running.add(running)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._watch, name="nvisy-query-watchdog", daemon=True
                )
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(running)

    def _watch(self) -> None:
        # Queries come and go a thousand times a second: to look now and then is cheaper than to be
        # woken by each.
        while True:
            time.sleep(TICK_SECONDS)
            self._interrupt(time.monotonic() - TIME_LIMIT_SECONDS)

    def _interrupt(self, late: float) -> None:
        # Under the lock, so that no query that came after on this connection is hit.
        with self._lock:
            for running in self._running:
                if running.since < late:
                    running.connection.interrupt()


def in_small_vectors(records: pa.RecordBatch) -> pa.RecordBatch:
    """The records, marked so that a query over them can be interrupted often."""
    return records.replace_schema_metadata(_MARK)


def vectors(records: pa.RecordBatch) -> pa.RecordBatch | pa.Table:
    """What DuckDB is to scan: the records, in small pieces if they are marked."""
    if (records.schema.metadata or {}).keys().isdisjoint(_MARK) or not records.num_rows:
        return unsliced(records)
    rows = max(1, VECTOR_BYTES * records.num_rows // max(1, records.nbytes))
    if rows >= records.num_rows:
        return unsliced(records)
    parts = [unsliced(records.slice(start, rows)) for start in range(0, records.num_rows, rows)]
    return pa.Table.from_batches(parts)
