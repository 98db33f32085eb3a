"""Calls whose time or memory is out of proportion to the value they are given.

A function that runs on one value cannot be interrupted, and what it allocates no limit of DuckDB
counts. So where the time grows faster than the value, values above a size are refused before the
call; the sizes are such that one call takes some seconds at most.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nvisy_connectors.tabular import growth
from nvisy_connectors.tabular.growth import Size
from nvisy_connectors.tabular.patterns import pattern_of
from nvisy_connectors.tabular.syntax import Node, RefusedError

MAX_RECORD_BYTES = 1 << 30
"""Most that all intermediate values of one record may take."""
MAX_COSTLY = 16
"""Most calls of functions that are only fast on short values, in one expression."""
MAX_WEIGHT = 5_000
"""Most places of all patterns of one expression together."""
_MATCHER_STEPS = 1 << 30
"""Places of a pattern times bytes of a text that one call may take: about ten seconds."""
_AGAIN_AND_AGAIN = 64 << 10
"""Bytes of a text in which all matches of a pattern that is not linear may be sought."""

_ALL_MATCHES = frozenset([
    "regexp_extract_all",
    "regexp_split_to_array",
    "str_split_regex",
    "string_split_regex",
])
_PATTERNS = _ALL_MATCHES | {
    "regexp_matches",
    "regexp_full_match",
    "regexp_extract",
    "regexp_replace",
}

_LISTS = 64 << 20
"""A list of texts counts sixteen times its text, see `growth`."""

_OF_LISTS = frozenset([
    "&&",
    "<@",
    "@>",
    "array_distinct",
    "array_has_all",
    "array_has_any",
    "array_intersect",
    "list_distinct",
    "list_has_all",
    "list_has_any",
    "list_intersect",
    "list_unique",
    "map",
    "map_from_entries",
])

MOST_BYTES: Mapping[str, int] = {
    "nfc_normalize": 256 << 10,
    "parse_dirname": 512 << 10,
    "parse_dirpath": 512 << 10,
    "parse_filename": 512 << 10,
    "map_concat": 8 << 20,
    **dict.fromkeys(_OF_LISTS, _LISTS),
}
"""Bytes of all arguments together, by the functions that are only fast below them."""


@dataclass(frozen=True)
class Costly:
    """A call that is refused for values above a size."""

    name: str
    offset: int | None
    most_bytes: int
    size: tuple[tuple[str, float], ...]
    """Bound on the size of its arguments, see `growth`."""
    weight: int = 0
    """Of its pattern."""
    slow: bool = False
    """Fast only on short values, whatever the pattern weighs."""
    remedy: str = "shorten the value before, or split the record with a 'chunk' node"
    text: str | None = None
    """Of a cast to lists: the column of which a closer look can tell, see `list_casts`."""
    per_object: int = 0
    """Bytes that each object in a list takes then."""


def costly(
    name: str, arguments: Sequence[Node], sizes: Sequence[Size], offset: int | None
) -> Costly | None:
    """What is to be known of a call; nothing if it takes no more than its values ask for."""
    if name in _PATTERNS and len(arguments) > 1:
        return _matching(name, arguments, sizes[0], offset)
    most = MOST_BYTES.get(name)
    if most is None:
        return None
    return Costly(name, offset, most, tuple(growth.total(sizes).items()), slow=True)


def check_calls(calls: Sequence[Costly]) -> None:
    """Refuse an expression whose costly calls are too many.

    Raises:
        RefusedError: They are.
    """
    slow = [call for call in calls if call.slow]
    if len(slow) > MAX_COSTLY:
        raise RefusedError(
            f"it has more than {MAX_COSTLY} calls that are only fast on short values",
            offset=slow[MAX_COSTLY].offset,
            remedy="do it in several nodes",
        )
    weight = 0
    for call in calls:
        weight += call.weight
        if weight > MAX_WEIGHT:
            raise RefusedError(
                f"its patterns are too large together: they have more than {MAX_WEIGHT} places "
                "where a match can be at once",
                offset=call.offset,
                remedy="repeat less in the patterns, such as 'a+' for 'a{1,1000}'",
            )


def _matching(name: str, arguments: Sequence[Node], size: Size, offset: int | None) -> Costly:
    pattern = pattern_of(str(arguments[1].get("literal", {}).get("text", "")))
    all_matches = name in _ALL_MATCHES or (name == "regexp_replace" and _may_be_global(arguments))
    slow = all_matches and not pattern.linear
    most = _MATCHER_STEPS // pattern.weight
    remedy = "repeat less in the pattern, or split the record with a 'chunk' node before"
    if slow:
        most = min(most, _AGAIN_AND_AGAIN)
        remedy = (
            "nothing should follow a repetition without an end in a pattern with alternatives: "
            "'a+|b' is fast, 'a+b|a' is not; or split the record with a 'chunk' node before"
        )
    return Costly(name, offset, most, tuple(size.items()), pattern.weight, slow, remedy)


def _may_be_global(arguments: Sequence[Node]) -> bool:
    if len(arguments) < 4:  # noqa: PLR2004 - text, pattern, new, options
        return False
    options = arguments[3]
    return options["class"] != "CONSTANT" or "g" in str(options["literal"].get("text", ""))


Lengths = npt.NDArray[np.float64]


class RecordSizes:
    """The bytes of each value of a batch, worked out when they are asked for."""

    def __init__(self, records: pa.RecordBatch) -> None:
        self._records = records
        self._names = {name.lower(): name for name in records.schema.names}
        self._lengths: dict[str, Lengths] = {}

    def too_large(self, size: Iterable[tuple[str, float]], most: int) -> npt.NDArray[np.intp]:
        """Rows in which values of this size take more than so many bytes."""
        size = tuple(size)
        # The whole column is at least as large as each of its values, and costs nothing to ask.
        if self._bound(size) <= most:
            return np.empty(0, np.intp)
        bytes_ = np.zeros(self._records.num_rows)
        for name, times in size:
            bytes_ += times if name == growth.LITERALS else times * self._of(name)
        return np.nonzero(bytes_ > most)[0]

    def column(self, name: str) -> pa.Array:
        """A column, by its name in small letters."""
        return self._column(name)

    def _bound(self, size: Iterable[tuple[str, float]]) -> float:
        return sum(
            times if name == growth.LITERALS else times * self._column(name).nbytes
            for name, times in size
        )

    def _column(self, name: str) -> pa.Array:
        return self._records.column(self._names[name])

    def _of(self, name: str) -> Lengths:
        if name not in self._lengths:
            self._lengths[name] = _lengths(self._column(name))
        return self._lengths[name]


def _lengths(values: pa.Array) -> Lengths:
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _lengths(values.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_binary(kind):
        return _numbers(pc.call_function("binary_length", [values]))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        # Of the whole, as their share of the items: one long item counts for all of them.
        items = values.flatten() if not pa.types.is_map(kind) else values.items
        counts = np.diff(values.offsets.to_numpy(zero_copy_only=False)).astype(np.float64)
        return counts * (values.nbytes / max(1, len(items)))
    if pa.types.is_struct(kind):
        parts = [_lengths(part) for part in values.flatten()]
        return np.sum(parts, axis=0) if parts else np.zeros(len(values))
    return np.full(len(values), values.nbytes / max(1, len(values)))


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _numbers(values: pa.Array) -> Lengths:
    return values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64)
