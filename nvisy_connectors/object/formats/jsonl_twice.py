"""Fields that occur twice in one object of a line: which of them counts, nobody can tell."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa


class Twice(dict[str, Any]):
    """An object in which a field occurs twice; it holds the last of them."""

    names: frozenset[str]
    """The fields."""


class TwiceError(ValueError):
    """There is such an object."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object.

    Raises:
        TwiceError: A field occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise TwiceError(f"field {min(_twice(pairs))!r} occurs twice")
    return found


def marked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, or `Twice`."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    twice = Twice(found)
    twice.names = frozenset(_twice(pairs))
    return twice


def _twice(pairs: list[tuple[str, Any]]) -> Iterator[str]:
    names = [name for name, _ in pairs]
    return (name for place, name in enumerate(names) if name in names[:place])


def occurs_twice(value: Any, fields: Sequence[pa.Field] | None = None) -> str | None:  # noqa: ANN401
    """A field that does, anywhere in a value; `None` if none does.

    Args:
        value: What JSON can be.
        fields: If other fields of the object are ignored, these are all that count.
    """
    if isinstance(value, list):
        return next(filter(None, map(occurs_twice, value)), None)
    if not isinstance(value, dict):
        return None
    known = value.keys() if fields is None else {field.name for field in fields}
    if isinstance(value, Twice) and (found := value.names & known):
        return min(found)
    if fields is None:
        return next(filter(None, map(occurs_twice, value.values())), None)
    inner = (
        occurs_twice(value[field.name], _fields_within(field.type, value[field.name]))
        for field in fields
        if field.name in value
    )
    return next(filter(None, inner), None)


def _fields_within(kind: pa.DataType, value: object) -> Sequence[pa.Field] | None:
    # What is no object, and all of a list, may be kept as a whole: then all fields count.
    return list(kind) if pa.types.is_struct(kind) and isinstance(value, dict) else None
