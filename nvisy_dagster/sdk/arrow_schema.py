"""Arrow schemas derived from the pydantic models of records.

`str` is string, `bool` bool, `float` float64, `bytes` binary, `int` int64, `datetime` a UTC
timestamp in microseconds, `UUID` 16 bytes, `X | None` nullable, `list[X]` a list, a nested model a
struct, any JSON value or object a string of JSON text. Another type is named with
`Annotated[X, Arrow(...)]`; a vector with `Annotated[list[float], ArrowVector()]`.
"""

import datetime as dt
import types
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa
from annotated_types import GroupedMetadata
from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from nvisy_dagster.sdk.envelope import ENVELOPE, ENVELOPE_NAMES, ID
from nvisy_dagster.sdk.errors import ConfigError
from nvisy_dagster.sdk.primitives import PRIMITIVE_MODELS, Record
from nvisy_dagster.sdk.primitives.types import Arrow, ArrowVector

_SCALARS: dict[object, pa.DataType] = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    bytes: pa.binary(),
    dt.datetime: pa.timestamp("us", "UTC"),
    uuid.UUID: ID,
}


@dataclass(frozen=True)
class Shape:
    """How one field of a model is stored, and what pydantic demands of it."""

    kind: Literal["scalar", "list", "struct", "vector", "json", "json_object"]
    nullable: bool = False
    scalar: pa.DataType | None = None
    """Type of a scalar."""
    item: "Shape | None" = None
    """Items of a list."""
    fields: Mapping[str, "Shape"] = field(default_factory=dict[str, "Shape"])
    """Fields of a struct."""
    constraints: tuple[object, ...] = ()
    """Metadata of the field, in the words of `annotated_types` and pydantic."""
    choices: tuple[Any, ...] | None = None
    """Values of a `Literal`."""

    def arrow_type(self, dimensions: int | None = None) -> pa.DataType:
        """Arrow type that stores the field.

        Raises:
            ConfigError: It is a vector and `dimensions` is not known.
        """
        if self.kind == "struct":
            return pa.struct([
                pa.field(name, shape.arrow_type(dimensions), nullable=shape.nullable)
                for name, shape in self.fields.items()
            ])
        if self.item is not None:
            item = self.item.arrow_type(dimensions)
            return pa.list_(pa.field("item", item, nullable=self.item.nullable))
        if self.kind == "vector":
            return _vector_type(dimensions)
        return self.scalar or pa.string()


def _vector_type(dimensions: int | None) -> pa.DataType:
    if dimensions is None or dimensions < 1:
        raise ConfigError(
            f"the schema of a vector needs its number of dimensions, not {dimensions}",
            remedy="name the dimensions of the model that makes the vectors",
            tag="schema",
        )
    return pa.list_(pa.float32(), dimensions)


@cache
def columns_of(primitive: str) -> Mapping[str, Shape]:
    """Shape of each column that a batch of this primitive has, envelope first."""
    model = PRIMITIVE_MODELS[primitive]
    shapes: dict[str, Shape] = {}
    for name, info in model.model_fields.items():
        column = column_of(name)
        if name == "columns":
            continue
        shape = _field_shape(model, name, info)
        if column in ENVELOPE_NAMES:
            shape = replace(shape, nullable=ENVELOPE.field(column).nullable)
        shapes[column] = shape
    return shapes


def column_of(name: str) -> str:
    """Column that holds a field of a record."""
    return f"_{name}" if f"_{name}" in ENVELOPE_NAMES and name in Record.model_fields else name


@cache
def schema_of(primitive: str, dimensions: int | None = None) -> pa.Schema:
    """Envelope and payload columns of a primitive.

    Args:
        primitive: Name of the primitive.
        dimensions: Dimension of its vectors; for primitives that hold one.

    Raises:
        ConfigError: The primitive holds a vector and `dimensions` is not known.
    """
    payload = [
        pa.field(name, shape.arrow_type(dimensions), nullable=shape.nullable)
        for name, shape in columns_of(primitive).items()
        if name not in ENVELOPE_NAMES
    ]
    return pa.schema([*ENVELOPE, *payload])


def model_schema(model: type[BaseModel], dimensions: int | None = None) -> pa.Schema:
    """Arrow schema of any pydantic model, one column per field.

    Raises:
        ConfigError: It holds a vector and `dimensions` is not known.
        TypeError: A field has a type that no Arrow type stands for.
    """
    struct = _model_shape(model)
    return pa.schema([
        pa.field(name, shape.arrow_type(dimensions), nullable=shape.nullable)
        for name, shape in struct.fields.items()
    ])


def _model_shape(model: type[BaseModel]) -> Shape:
    return Shape(
        "struct",
        fields={name: _field_shape(model, name, info) for name, info in model.model_fields.items()},
    )


def _field_shape(model: type[BaseModel], name: str, info: FieldInfo) -> Shape:
    try:
        return _shape(info.annotation, tuple(_flat(info.metadata)))
    except TypeError as error:
        raise TypeError(f"{model.__name__}.{name}: {error}") from error


def _shape(annotation: object, metadata: tuple[object, ...]) -> Shape:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *outer = get_args(annotation)
        return _shape(inner, (*_flat(outer), *metadata))
    if origin in {Union, types.UnionType}:
        return _optional(annotation, metadata)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return replace(_model_shape(annotation), constraints=metadata)
    return replace(_marked(metadata) or _plain(annotation), constraints=metadata)


def _marked(metadata: tuple[object, ...]) -> Shape | None:
    for mark in metadata:
        if isinstance(mark, ArrowVector):
            return Shape("vector")
        if isinstance(mark, Arrow):
            return Shape("scalar", scalar=mark.type)
    return None


def _plain(annotation: object) -> Shape:
    origin = get_origin(annotation)
    if annotation is JsonValue:
        return Shape("json")
    if origin is dict:
        return Shape("json_object")
    if origin is list:
        return Shape("list", item=_shape(get_args(annotation)[0], ()))
    choices = get_args(annotation) if origin is Literal else None
    scalar = _choice_type(choices) if choices else _SCALARS.get(annotation)
    if scalar is None:
        raise TypeError(
            f"no Arrow type stands for {annotation!r}; name one with Annotated[X, Arrow(...)]"
        )
    return Shape("scalar", scalar=scalar, choices=choices)


def _optional(annotation: object, metadata: tuple[object, ...]) -> Shape:
    members = [member for member in get_args(annotation) if member is not types.NoneType]
    if len(members) != 1 or len(get_args(annotation)) != len(members) + 1:
        raise TypeError(f"no Arrow type stands for {annotation!r}; only `X | None` has one")
    return replace(_shape(members[0], metadata), nullable=True)


def _flat(metadata: list[Any]) -> list[object]:
    flat: list[object] = []
    for item in metadata:
        if isinstance(item, FieldInfo):
            flat.extend(_flat(item.metadata))
        elif isinstance(item, GroupedMetadata):
            flat.extend(item)
        else:
            flat.append(item)
    return flat


def _choice_type(choices: tuple[Any, ...]) -> pa.DataType:
    kinds = {type(choice) for choice in choices}
    kind = kinds.pop()
    if kinds or kind not in _SCALARS:
        raise TypeError(f"the choices {choices!r} are not of one Arrow type")
    return _SCALARS[kind]
