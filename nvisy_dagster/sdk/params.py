"""The models an author declares: params, connections and cursors."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    StringConstraints,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
"""A name that is safe to place in SQL and in a file name."""


def _from_folder(path: Path, info: ValidationInfo) -> Path:
    context: dict[str, Path | None] = info.context or {}
    folder = context.get("folder") or Path.cwd()
    return Path(os.path.abspath(folder / path.expanduser()))  # noqa: PTH100 - pure, keeps symlinks


LocalPath = Annotated[Path, AfterValidator(_from_folder)]
"""A path on this machine, absolute once validated: a relative one begins at the folder of the graph
(`folder` in the validation context), else at the working folder."""


def camel(name: str) -> str:
    """`max_retries` -> `maxRetries`: the spelling that published graphs use."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


_SCALARS = frozenset({"int", "float", "bool"})
_NO_SCHEMAS = frozenset({"default", "metadata", "serialization", "expected"})
"""Keys of a core schema under which there is none."""


def _with_strict_scalars(schema: Any) -> Any:  # noqa: ANN401 - any part of a core schema
    if isinstance(schema, list | tuple):
        items = cast("list[Any] | tuple[Any, ...]", schema)
        return type(items)(map(_with_strict_scalars, items))
    if not isinstance(schema, dict):
        return schema
    parts = cast("dict[str, Any]", schema)
    kind = parts.get("type")
    if not isinstance(kind, str):  # fields by name, or members of a union by tag
        return {name: _with_strict_scalars(part) for name, part in parts.items()}
    strict = {
        key: part if key in _NO_SCHEMAS else _with_strict_scalars(part)
        for key, part in parts.items()
    }
    return {"strict": True} | strict if kind in _SCALARS else strict


def _words(kind: Any) -> list[str]:  # noqa: ANN401 - a type
    """The words that a field takes, its `Literal` members."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [word for member in get_args(kind) for word in _words(member)]


class Model(BaseModel):
    """Frozen, closed and documented: what every declared model of this project is."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        alias_generator=camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=False,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class Params(Model):
    """Base class of component parameters.

    The docstring under each field becomes its entry on the reference page. Fields are written in
    snake_case; camelCase is accepted on input.

    Numbers and booleans must be written as such: `"512"`, `true` and `1.0` are no whole number. A
    field that is to take more says so: `Annotated[int, Field(strict=False)]`.
    """

    planned: ClassVar[Mapping[str, Collection[str]]] = {}
    """Words that fields will take one day: they are refused as not built yet, not as unknown. What
    else is said beside one is not judged, for it may be right then."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_planned(cls, document: Any) -> Any:  # noqa: ANN401 - any JSON
        if isinstance(document, dict):
            written = cast("dict[str, Any]", document)
            for field, words in cls.planned.items():
                word = written.get(field, written.get(camel(field)))
                if isinstance(word, str) and word in words:
                    built = " or ".join(
                        f'"{known}"' for known in _words(cls.model_fields[field].annotation)
                    )
                    raise PydanticCustomError(
                        "planned",
                        '{field} "{word}" is not built yet',
                        {"field": field, "word": word, "remedy": f"use {built}", "at": (field,)},
                    )
        return document

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Make the numbers and booleans of all fields strict.

        pydantic's own setting for a model would also refuse the text of a path, an enum or a time.
        """
        return _with_strict_scalars(handler(source))


class Cursor(Model):
    """Base class of source positions. Must survive a JSON round trip."""


class Connection(Model):
    """Base class of a user's named access to a system.

    A field that holds a secret is declared `pydantic.SecretStr`: it is never shown, logged or
    written, and a graph file may only fill it with a reference such as `${env:NAME}`.
    """

    type: ClassVar[str]
    """Name of the connector, as written in `connections.json`."""

    def location(self) -> str | None:
        """URI of the system, without credentials; `None` when it has none."""
        return None
