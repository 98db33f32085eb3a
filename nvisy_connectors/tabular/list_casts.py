"""Casts of JSON text to lists: a list takes many times the bytes of the text that it is read from.

`[1,1,1]` has two bytes for each number; read, made a list and handed on, each takes a hundred. What
a text may become is bounded by its length, and where that is not enough by its brackets and commas.
"""

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from nvisy_connectors.tabular.costs import MAX_RECORD_BYTES, Costly
from nvisy_connectors.tabular.growth import Size
from nvisy_connectors.tabular.syntax import Node

pc: Any = cast("Any", pyarrow.compute)

LISTS = frozenset(["list", "array", "map"])
PER_BYTE, PER_ITEM, PER_FIELD = 16, 100, 16
"""Measured, and rounded up: what a byte of text takes, an item of a list, and a field of each
object in one."""
_FEWEST_ITEM, _FEWEST_OBJECT = 2, 3
"""Bytes of the shortest items, `1,` and `{},`."""


def cast_to_lists(node: Node, size: Size) -> Costly | None:
    """What is to be known of a cast; nothing if its type has no lists.

    Args:
        node: The cast.
        size: Bound on the size of what is cast, see `growth`.
    """
    if not size or not _has_lists(node["type_expr"]):
        return None
    per_object = PER_FIELD * _fields(node["type_expr"])
    worst = PER_BYTE + PER_ITEM / _FEWEST_ITEM + per_object / _FEWEST_OBJECT
    return Costly(
        "CAST",
        node.get("offset"),
        int(MAX_RECORD_BYTES / worst),
        tuple(size.items()),
        remedy="split the record before, or take a part of the JSON with a path",
        text=_column(node["child"]),
        per_object=per_object,
    )


def still_too_large(texts: pa.Array, per_object: int) -> npt.NDArray[np.bool_]:
    """Which texts may take more memory than a record may, now that they are looked at."""

    def counted(mark: str) -> npt.NDArray[np.float64]:
        found = pc.fill_null(pc.count_substring(texts, mark), 0)
        return found.to_numpy(zero_copy_only=False).astype(np.float64)

    lengths = pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)
    items = counted(",") + counted("[") + 1
    return lengths * PER_BYTE + items * PER_ITEM + counted("{") * per_object > MAX_RECORD_BYTES


def _has_lists(node: Node) -> bool:
    children = node.get("children", [])
    return str(node.get("type_name", "")).lower() in LISTS or any(map(_has_lists, children))


def _fields(node: Node) -> int:
    """The values that one item has."""
    return sum(_fields(child) for child in node.get("children", [])) or 1


def _column(node: Node) -> str | None:
    while node["class"] == "CAST":
        node = node["child"]
    if node["class"] == "COLUMN_REF" and len(node["column_names"]) == 1:
        return str(node["column_names"][0]).lower()
    return None
