"""Folders that tell columns: `dt=2024-01-01/region=eu/`, as Hive writes them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from nvisy_dagster.sdk import ConfigError
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES

pc: Any = cast("Any", pyarrow.compute)

NULL = "__HIVE_DEFAULT_PARTITION__"
"""Stands for null in the name of a folder."""

NAME_BYTES = 255
"""Longest name of a folder on common disks."""

KEY_BYTES = 800
"""Longest path of folders of one record: stores take keys of 1,024 bytes."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
"""Columns that every reader finds again: DuckDB does not decode names, and others leave out folders
that begin with a dot or an underscore."""


def partition_values(key: str, *, whole_names: bool = True) -> dict[str, str | None]:
    """What the folders in a key say: column -> value as text, `None` for null.

    Args:
        key: Key of an object, relative to the folder that is read.
        whole_names: Whether the key begins at a folder, and not within the name of one.

    Raises:
        ValueError: Two folders say the same column, or a name is not UTF-8.
    """
    found: dict[str, str | None] = {}
    for place, segment in enumerate(key.split("/")[:-1]):
        name, equals, value = segment.partition("=")
        if not name or not equals or (place == 0 and not whole_names):
            continue
        name = unquote(name, errors="strict")
        if name in found:
            raise ValueError(f"two of its folders say {name!r}")
        found[name] = None if value == NULL else unquote(value, errors="strict")
    return found


def partition_arrays(
    values: Mapping[str, str | None], types: Mapping[str, pa.DataType]
) -> dict[str, pa.Array]:
    """One value per column, of the declared types; strings where none is declared.

    Raises:
        ValueError: A value is none of its type; names the folder.
    """
    found: dict[str, pa.Array] = {}
    for name, value in values.items():
        kind = types.get(name, pa.string())
        try:
            found[name] = pa.array([value], pa.string()).cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"its folder {name}={value} is no {kind}") from error
    return found


def check_partition_by(names: Sequence[str], schema: pa.Schema) -> None:
    """Refuse columns that no folder can be named after; pure.

    Raises:
        ConfigError: There is no such column, or its values are no names.
    """
    own = [name for name in schema.names if name not in ENVELOPE_NAMES]
    for name in names:
        if name not in own:
            raise ConfigError(
                f"param 'partition_by' names a column {name!r} that does not come in; "
                f"there are: {', '.join(own)[:300]}",
                remedy="name one of these, or make it with a `map` before",
                tag="schema",
            )
        kind = schema.field(name).type
        if not _fits(kind):
            raise ConfigError(
                f"param 'partition_by': column {name!r} is {kind}; the name of a folder can be a "
                "string, a whole number, a boolean or a date",
                remedy=f"make it one with a `map` before, such as strftime({name}, '%Y-%m-%d')",
                tag="schema",
            )
    if set(own) == set(names):
        raise ConfigError(
            "param 'partition_by' names all columns that come in: nothing is left for the files",
            remedy="leave one out",
            tag="schema",
        )


def is_partition_name(name: str) -> bool:
    """Whether a folder can be named after this column so that every reader finds it again."""
    return _NAME.fullmatch(name) is not None and name not in ENVELOPE_NAMES


def _fits(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_date32(kind)
    )


@dataclass(frozen=True)
class Split:
    """The rows of a batch by the folder that they belong into."""

    folders: Mapping[str, npt.NDArray[np.int64]]
    """`dt=2024-01-01/region=eu/` -> rows, in their order."""
    refused: Mapping[int, str]
    """Rows that no folder can be named after, with the reason."""


def split(batch: pa.RecordBatch, names: Sequence[str]) -> Split:
    """Tell which rows belong into which folder."""
    codes = np.zeros(batch.num_rows, np.int64)
    for name in names:
        texts = batch.column(name).cast(pa.large_string())
        encoded = texts.dictionary_encode(null_encoding="encode")
        # Made dense again column by column, so that no product of counts overflows.
        codes = codes * len(encoded.dictionary) + encoded.indices.to_numpy(zero_copy_only=False)
        _, codes = np.unique(codes, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(codes[order]) != 0])
    folders: dict[str, npt.NDArray[np.int64]] = {}
    refused: dict[int, str] = {}
    for rows in np.split(order, starts[1:]):
        values = [batch.column(name)[int(rows[0])] for name in names]
        path, reason = _path(names, [_text(value) for value in values])
        if reason is None:
            folders[path] = rows
        else:
            refused |= dict.fromkeys(rows.tolist(), reason)
    return Split(folders, refused)


def _text(value: pa.Scalar) -> str | None:
    return value.cast(pa.string()).as_py()


def _path(names: Sequence[str], values: Sequence[str | None]) -> tuple[str, str | None]:
    """The folders of these values, and why they cannot be."""
    parts = list(_segments(names, values))
    for name, part in zip(names, parts, strict=True):
        if len(part) > NAME_BYTES:
            return "", (
                f"the value of {name!r} makes a folder's name of {len(part)} bytes; "
                f"{NAME_BYTES} are possible"
            )
    path = "/".join(parts) + "/"
    if len(path) > KEY_BYTES:
        return "", f"its values make a path of {len(path)} bytes; {KEY_BYTES} are possible"
    return path, None


def _segments(names: Sequence[str], values: Sequence[str | None]) -> Iterator[str]:
    for name, value in zip(names, values, strict=True):
        # What stands for null is no name of a value: as one, its first letter is written encoded.
        text = NULL if value is None else quote(value, safe="")
        yield f"{name}={'%5F' + text[1:] if value == NULL else text}"
