"""Which columns a read of Parquet files has, and which of them a file and its folders hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from nvisy_connectors.object.formats.parquet_pruning import (
    Bounds,
    bounds_of_value,
    is_text,
    literal,
    may_be_true,
)
from nvisy_connectors.object.formats.parquet_types import (
    can_cast,
    keeps_all,
    parse_parquet_columns,
    parse_partitions,
    written_out,
)
from nvisy_connectors.object.origins import check_names
from nvisy_connectors.object.params import ReadParams
from nvisy_connectors.object.partitions import partition_arrays, partition_values
from nvisy_dagster.sdk import ConfigError, DataError
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES
from nvisy_dagster.sdk.push_down import NO_HINT, Hint, compares, folded, texts

_ALIKE = "choose like files with `glob`, or leave it out of `columns`"


def declared_columns(params: ReadParams) -> pa.Schema | None:
    """All columns, if the params tell their types."""
    if not isinstance(params.columns, dict):
        return None
    schema = parse_parquet_columns(params.columns)
    folders = parse_partitions(params.partitions) if isinstance(params.partitions, dict) else {}
    return pa.schema([*schema, *(pa.field(name, kind) for name, kind in folders.items())])


class FolderColumns:
    """The columns that the folders in a key tell.

    Args:
        params: What the source was told.
        whole_names: Whether keys begin at a folder.
    """

    def __init__(self, params: ReadParams, *, whole_names: bool) -> None:
        self._wanted = params.partitions is not False
        self._whole_names = whole_names
        self._types: dict[str, pa.DataType] = {}
        if isinstance(params.columns, dict):
            self._types |= {one.name: one.type for one in parse_parquet_columns(params.columns)}
        if isinstance(params.partitions, dict):
            self._types |= parse_partitions(params.partitions)

    def of(self, key: str) -> dict[str, pa.Array]:
        """One value per column.

        Raises:
            ValueError: A folder says nothing that can be read.
        """
        if not self._wanted:
            return {}
        return partition_arrays(partition_values(key, whole_names=self._whole_names), self._types)


def folder_refused(uri: str, error: ValueError) -> DataError:
    """The error of an object whose folders say nothing that can be read."""
    return DataError(
        f"{uri} cannot be read: {error}",
        rows={},
        remedy="rename the folder, or set `partitions` to other types or to false",
        tag="format",
    )


@dataclass(frozen=True)
class Settled:
    """The columns of a read: those that all of its files have, and those that come out."""

    schema: pa.Schema
    declared: bool
    """Whether values are cast to these types."""
    chosen: pa.Schema
    """Those of the columns that come out."""
    hint: Hint
    """What may be left out; it fits the schema."""

    @classmethod
    def of(cls, schema: pa.Schema, hint: Hint, *, declared: bool) -> "Settled":
        """Use of a hint what fits a schema."""
        hint = hint if _fits(hint, schema) else NO_HINT
        chosen = schema
        if hint.columns is not None:
            names = {folded(name) for name in (*hint.columns, *hint.replaced)}
            fields = [one for one in schema if folded(one.name) in names]
            chosen = pa.schema(fields or [schema.field(0)])
        return cls(schema, declared, chosen, hint)

    def may_want(
        self,
        folders: Mapping[str, pa.Array],
        more: Callable[[str], Bounds] = lambda _: Bounds(),
    ) -> bool:
        """Whether some row may be wanted, if all of them can become records.

        Args:
            folders: What is the same in all of them.
            more: What is known of another column.
        """
        if self.hint.where is None:
            return True
        known = {folded(name): bounds_of_value(told[0]) for name, told in folders.items()}
        return may_be_true(self.hint.where, lambda name: known.get(name) or more(name), self.schema)


def _fits(hint: Hint, schema: pa.Schema) -> bool:
    """Whether a hint names columns that are there, and values that are comparable with them."""
    names: list[str] = [folded(name) for name in schema.names]
    there = {*names, *map(folded, ENVELOPE_NAMES)}
    if not there.issuperset(map(folded, hint.columns or ())):
        return False
    for text in texts(hint.where) if hint.where else ():
        if names.count(folded(text)) != 1 or not is_text(schema.types[names.index(folded(text))]):
            return False
    for compare in compares(hint.where) if hint.where else ():
        name = folded(compare.column)
        if names.count(name) != 1:
            return False
        kind = schema.field(names.index(name)).type
        if compare.value is not None and literal(compare.value, kind) is None:
            return False
    return True


def settle(
    found: pa.Schema, folders: Mapping[str, pa.Array], params: ReadParams, uri: str
) -> pa.Schema:
    """The columns that a first file settles, if they are not declared.

    Args:
        found: The columns of the file.
        folders: Those of its folders.
        params: What the source was told.
        uri: Address of the file.

    Raises:
        ConfigError: One that the params name is not there, or has a name that cannot be.
    """
    names: list[str] = [name for name in found.names if name not in folders] + list(folders)
    wanted = params.columns
    chosen = list(wanted) if isinstance(wanted, list) else names
    if isinstance(params.partitions, dict):
        chosen += [name for name in params.partitions if name not in chosen]
    _check_there(chosen, names, uri)
    fields = [
        pa.field(name, folders[name].type) if name in folders else _field(found, name)
        for name in chosen
    ]
    return check_names(pa.schema(fields).remove_metadata(), uri)


def check_file(
    settled: Settled,
    found: pa.Schema,
    folders: Mapping[str, pa.Array],
    params: ReadParams,
    uri: str,
) -> None:
    """Refuse a file whose columns are not those of the read.

    Raises:
        ConfigError: They are not.
    """
    names: list[str] = [name for name in found.names if name not in folders] + list(folders)
    if settled.declared:
        _check_casts(settled.schema, found, folders, params, uri)
        return
    _check_there(settled.schema.names, names, uri)
    if not isinstance(params.columns, list) and (
        extra := [name for name in names if name not in settled.schema.names]
    ):
        raise ConfigError(
            f"{uri} has a column {extra[0]!r} that the first file has not",
            remedy="list in `columns` those to read, or choose like files with `glob`",
            tag="schema",
        )
    for field in settled.schema:
        if field.name in folders:
            own = pa.field(field.name, folders[field.name].type)
        else:
            own = _field(found, field.name)
        if field.type != own.type or (own.nullable and not field.nullable):
            raise ConfigError(
                f"column {field.name!r} of {uri} is {_type(own)}, in the first file {_type(field)}",
                remedy=_ALIKE,
                tag="schema",
            )


def fallible(settled: Settled, found: pa.Schema, folders: Mapping[str, pa.Array]) -> list[str]:
    """Columns of a file of which a value may not be one of the declared type."""
    if not settled.declared:
        return []
    return [
        one.name
        for one in settled.schema
        if one.name not in folders
        and one.name in found.names
        and not keeps_all(_field(found, one.name).type, one.type)
    ]


def _check_casts(
    schema: pa.Schema,
    found: pa.Schema,
    folders: Mapping[str, pa.Array],
    params: ReadParams,
    uri: str,
) -> None:
    if isinstance(params.partitions, dict):
        _check_there(list(params.partitions), [*found.names, *folders], uri)
    for one in schema:
        if one.name in folders or one.name not in found.names:
            continue
        own = _field(found, one.name)
        if not can_cast(own.type, one.type):
            raise ConfigError(
                f"column {one.name!r} of {uri} is {own.type}, which cannot become {one.type}",
                remedy="declare another type in `columns`",
                tag="schema",
            )


def _check_there(wanted: list[str], names: list[str], uri: str) -> None:
    if missing := [name for name in wanted if name not in names]:
        raise ConfigError(
            f"{uri} has no column {missing[0]!r}; it has {', '.join(names)}",
            remedy="check `columns` and `glob`: all files of one read need the same columns",
            tag="schema",
        )


def _field(schema: pa.Schema, name: str) -> pa.Field:
    """A column of a file, as it is read."""
    found = schema.field(schema.names.index(name))
    return found.with_type(written_out(found.type))


def _type(field: pa.Field) -> str:
    return f"{field.type}" if field.nullable else f"{field.type} not null"
