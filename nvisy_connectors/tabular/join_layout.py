"""What a join compares, and which columns come out of it: worked out before the run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from nvisy_connectors.tabular.comparing import comparable_type
from nvisy_connectors.tabular.expression import existing, nearest
from nvisy_connectors.tabular.widening import common_type, plain_type
from nvisy_dagster.sdk import ConfigError, raise_mistakes
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES, payload_schema

if TYPE_CHECKING:
    from nvisy_connectors.tabular.join import JoinParams

LEFT, RIGHT = "left", "right"


@dataclass(frozen=True)
class Key:
    """A column of each input that are to be equal."""

    left: str
    right: str
    kind: pa.DataType
    """What both are compared as."""

    def of(self, side: str) -> str:
        """The column of one of the inputs."""
        return self.left if side == LEFT else self.right


@dataclass(frozen=True)
class Layout:
    """The columns of a join."""

    keys: Sequence[Key]
    left: Sequence[pa.Field]
    """Payload columns of the left that come out."""
    right: Mapping[str, pa.Field]
    """Columns of the right that come out, each as what."""
    shared: Sequence[str] = ()
    """Columns of both that are compared and come out once, whichever input a record is of."""

    @property
    def payload(self) -> pa.Schema:
        """What comes out behind the envelope."""
        return pa.schema([*self.left, *self.right.values()])


def layout_of(params: "JoinParams", left: pa.Schema, right: pa.Schema) -> Layout:
    """What a join makes of two schemas.

    Raises:
        ConfigError: A column is not there, cannot be compared, or has the name of another.
    """
    keys: list[Key] = []
    errors: list[ConfigError] = []
    for place, (one, other) in enumerate(params.pairs):
        try:
            keys.append(_key(place, (one, other), {LEFT: left, RIGHT: right}, params))
        except ConfigError as error:
            errors.append(error)
    if params.chooses:
        raise_mistakes(errors)
        return Layout(keys, list(payload_schema(left)), {})
    coming = list(taken(params, right, errors))
    names = payload_schema(left).names
    fields = {
        field.name: field
        .with_name(
            field.name + params.suffix if params.suffix and _in(field.name, names) else field.name
        )
        .with_type(plain_type(field.type))
        .with_nullable(field.nullable or params.keeps_left)
        for field in coming
    }
    errors += _clashes(params, names, fields)
    raise_mistakes(errors)
    plain = [field.with_type(plain_type(field.type)) for field in payload_schema(left)]
    if not params.keeps_right:
        return Layout(keys, plain, fields)
    common = {key.left: key for key in keys if key.left in params.shared}
    plain = [
        field.with_type(plain_type(common[field.name].kind)).with_nullable(
            field.nullable or right.field(field.name).nullable
        )
        if field.name in common
        else field.with_nullable(nullable=True)
        for field in plain
    ]
    return Layout(keys, plain, fields, list(common))


def _key(
    place: int,
    names: tuple[str, str],
    schemas: Mapping[str, pa.Schema],
    params: "JoinParams",
) -> Key:
    raise_mistakes([
        error for side, schema in schemas.items() for error in _absent(place, side, schema, params)
    ])
    one, other = (
        schema.field(name).type for schema, name in zip(schemas.values(), names, strict=True)
    )
    common = common_type(one, other)
    kind = None if common is None else comparable_type(common)
    if kind is None:
        are = f"are of type {one}" if one.equals(other) else f"are {one} and {other}"
        raise ConfigError(
            f"left {names[0]!r} and right {names[1]!r} {are}, which cannot be compared",
            remedy='make other types of them with "convert" or "map"',
            tag="schema",
            place=("on", place),
        )
    return Key(*names, common if common is not None else one)


def _absent(
    place: int, side: str, schema: pa.Schema, params: "JoinParams"
) -> Iterator[ConfigError]:
    """That the column of an input is not there which is to be compared."""
    name = params.pairs[place][side == RIGHT]
    if name not in schema.names:
        named = not isinstance(params.on[place], str)
        yield ConfigError(
            f"the {side} input has no column {name!r}",
            remedy=nearest(name, schema.names) or existing(schema.names),
            tag="schema",
            place=("on", place, side) if named else ("on", place),
        )


def check_alone(params: "JoinParams", side: str, schema: pa.Schema) -> None:
    """Look for the columns of an input when the other one has not even columns.

    Raises:
        ConfigError: A column is not there.
    """
    places = range(len(params.pairs))
    errors = [error for place in places for error in _absent(place, side, schema, params)]
    if side == RIGHT and not params.chooses:
        list(taken(params, schema, errors))
    raise_mistakes(errors)


def taken(params: "JoinParams", right: pa.Schema, errors: list[ConfigError]) -> Iterator[pa.Field]:
    """Columns of the right that come along; what is wrong with them is added to the errors."""
    if params.columns is None:
        same = params.shared
        yield from (field for field in payload_schema(right) if field.name not in same)
        return
    names = payload_schema(right).names
    for place, name in enumerate(params.columns):
        if name in params.columns[:place]:
            message, remedy = f"{name!r} is named twice", "name it once"
        elif name in ENVELOPE_NAMES:
            message = f"{name!r} is a column of the envelope, which is made anew"
            remedy = 'copy it with a "map" before'
        elif name not in names:
            message = f"the right input has no column {name!r}"
            remedy = nearest(name, names) or existing(names)
        else:
            yield right.field(name)
            continue
        errors.append(ConfigError(message, remedy=remedy, tag="schema", place=("columns", place)))


def _clashes(
    params: "JoinParams", left: Sequence[str], fields: Mapping[str, pa.Field]
) -> Iterator[ConfigError]:
    seen = list(left)
    found: dict[tuple[str | int, ...], list[str]] = {}
    for name, field in fields.items():
        if _in(field.name, seen):
            place: tuple[str | int, ...] = ("suffix",) if params.suffix else ()
            if params.columns is not None and not params.suffix:
                place = ("columns", params.columns.index(name))
            found.setdefault(place, []).append(field.name)
        seen.append(field.name)
    for place, names in found.items():
        columns = "column" if len(names) == 1 else "columns"
        yield ConfigError(
            f"the right input brings {columns} {', '.join(map(repr, names))}, which would be there "
            "twice",
            remedy='say a "suffix" for such columns, such as "_right", choose those that come '
            'along with "columns", or rename them with a "map"',
            tag="schema",
            place=place,
        )


def _in(name: str, names: Sequence[str]) -> bool:
    """Whether a name is there, whatever its case: expressions could not tell them apart."""
    return name.lower() in {one.lower() for one in names}
