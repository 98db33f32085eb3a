"""Why an expression fails on some rows, in DuckDB's words.

DuckDB tells the reason of one row per statement, and a statement costs as much as hundreds of rows.
So rows of equal values share one, and what is said of one text is said of the others that the same
cast refuses in the same way.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from nvisy_connectors.tabular.database import error_details, explained_rows
from nvisy_connectors.tabular.expression import Expression
from nvisy_connectors.tabular.refused_texts import way_of_refusal
from nvisy_connectors.tabular.tolerant import Attempt

MAX_ASKED = 20
"""Rows of one batch that are run again alone for their reason; about 0.5 ms each."""
MAX_REMEMBERED = 1000
"""Texts of one expression of which it is remembered what was said."""
MAX_REMEMBERED_CHARACTERS = 1000
MAX_REASON_CHARACTERS = 300

UNKNOWN = "it fails, like other rows of the batch"


class Cause(NamedTuple):
    """All that a row fails for."""

    attempt: Attempt
    text: str
    """What is refused."""


_Way = tuple[Attempt, str]
"""An attempt, and how it refuses a text."""


def _way(cause: Cause | None) -> _Way | None:
    if cause is None:
        return None
    way = way_of_refusal(cause.attempt.kind, cause.text)
    return None if way is None else (cause.attempt, way)


class _Memory:
    """What was said of an expression before."""

    def __init__(self) -> None:
        self._around: dict[_Way, tuple[str, str] | None] = {}
        self._said: dict[Cause, str] = {}

    def recall(self, cause: Cause | None, way: _Way | None) -> str | None:
        """What was said of the cause, or would be after what was said of another such text."""
        if cause is None:
            return None
        around = self._around.get(way) if way is not None else None
        return self._said.get(cause) if around is None else cause.text.join(around)

    def learn(self, cause: Cause, way: _Way | None, said: str) -> None:
        """Keep what was said of a cause."""
        if way is not None and way not in self._around:
            parts = ((said.split(f"{quote}{cause.text}{quote}", 1), quote) for quote in "'\"")
            around = ((f"{p[0]}{quote}", f"{quote}{p[1]}") for p, quote in parts if len(p) > 1)
            self._around[way] = next(around, None)
        elif len(self._said) < MAX_REMEMBERED and len(cause.text) < MAX_REMEMBERED_CHARACTERS:
            self._said[cause] = said


@lru_cache(maxsize=1024)
def memory_of(sql: str, schema: pa.Schema) -> _Memory:  # noqa: ARG001 - the key
    """What is remembered of an expression over columns of these types, by its SQL."""
    return _Memory()


def reasons(
    expression: Expression,
    sql: str,
    records: pa.RecordBatch,
    rows: Sequence[int],
    causes: Sequence[Cause | None] = (),
) -> list[str]:
    """The reason of each of some rows, all of which fail.

    Args:
        expression: What fails.
        sql: Its SQL.
        records: The columns that DuckDB is given.
        rows: The rows that fail.
        causes: The cause of each of their failures, where it is known.
    """
    told = _Told(sql, records, rows, causes or [None] * len(rows))
    told.ask_of_each_way()
    told.ask_of_others([use.name.lower() for use in expression.columns])
    return [f"expression {expression.param!r}: {_shortened(s or UNKNOWN)}" for s in told.said]


def message(error: Exception) -> str:
    """What DuckDB says, short enough to be shown."""
    return _shortened(_first_line(error))


class _Told:
    """What is said of the failing rows of one batch; places are places among those."""

    def __init__(
        self, sql: str, records: pa.RecordBatch, rows: Sequence[int], causes: Sequence[Cause | None]
    ) -> None:
        self._sql = sql
        self._records = records
        self._rows = rows
        self._causes = causes
        self._ways = [_way(cause) for cause in causes]
        self._memory = memory_of(sql, records.schema)
        self._left = MAX_ASKED
        self.said = list(map(self._memory.recall, causes, self._ways))

    def ask_of_each_way(self) -> None:
        """Ask of one text for each way in which texts are refused, if none was told before."""
        first: dict[_Way, int] = {}
        for place in self._open():
            way = self._ways[place]
            if way is not None:
                first.setdefault(way, place)
        if first:
            for _ in self._ask(list(first.values())):
                pass
            for place in self._open():
                self.said[place] = self._memory.recall(self._causes[place], self._ways[place])

    def ask_of_others(self, columns: Sequence[str]) -> None:
        """Ask of the rows of which nothing is said by now; of those of equal values once.

        Args:
            columns: What the expression reads, in lower case.
        """
        rest = self._open()
        if not rest:
            return
        names = [name for name in self._records.schema.names if name.lower() in columns]
        failing = self._records.select(names).take(pa.array([self._rows[p] for p in rest]))
        equal: dict[object, list[int]] = {}
        for place, group in zip(rest, _groups(failing), strict=True):
            equal.setdefault(self._causes[place] or group, []).append(place)
        groups = list(equal.values())
        for group, said in zip(groups, self._ask([group[0] for group in groups]), strict=False):
            for place in group:
                self.said[place] = said

    def _open(self) -> list[int]:
        return [place for place, said in enumerate(self.said) if said is None]

    def _ask(self, places: Sequence[int]) -> Iterator[str | None]:
        """What DuckDB says of some rows, as many as it may be asked of."""
        asked = places[: self._left]
        self._left -= len(asked)
        rows = [self._rows[place] for place in asked]
        records = self._records.take(pa.array(rows, pa.int64()))
        errors = explained_rows(self._sql, records, range(len(rows))) if rows else []
        for place, error in zip(asked, errors, strict=True):
            self.said[place] = None if error is None else _first_line(error)
            cause, said = self._causes[place], self.said[place]
            if cause is not None and said is not None:
                self._memory.learn(cause, self._ways[place], said)
            yield said


def _groups(failing: pa.RecordBatch) -> list[int]:
    """A number for each row, the same for rows of equal values."""
    codes: list[Any] = []
    for column in failing.columns:
        # Floats that compare equal can still be written in two ways.
        if pa.types.is_nested(column.type) or pa.types.is_floating(column.type):
            return list(range(failing.num_rows))
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes.append(encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy())
    if not codes:
        return [0] * failing.num_rows
    if len(codes) == 1:
        return codes[0].tolist()
    return np.unique(np.stack(codes), axis=1, return_inverse=True)[1].reshape(-1).tolist()


def _first_line(error: Exception) -> str:
    lines = error_details(error)["exception_message"].strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _shortened(text: str) -> str:
    first = text.splitlines()[0]
    short = first[:MAX_REASON_CHARACTERS]
    return short if short == first else f"{short}..."
