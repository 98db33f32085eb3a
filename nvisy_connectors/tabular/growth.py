"""How large the result of an expression can be, known before it runs.

DuckDB's memory limit does not cover what scalar functions allocate, and a running one cannot be
interrupted: `replace` over `replace` over `replace` makes gigabytes of a few bytes. So the size of
every part of an expression is bounded from above: so many times each column, and so many bytes of
literals.
"""

from collections.abc import Iterable, Mapping, Sequence

from nvisy_connectors.tabular.allow_list import Function
from nvisy_connectors.tabular.database import ask
from nvisy_connectors.tabular.syntax import Node, RefusedError

MAX_GROWTH = 100
"""Times that a value may be larger than a column it is made from."""
MAX_TOTAL_GROWTH = 256
"""The same, over all intermediate values of one expression together."""
MAX_LITERAL_BYTES = 8192
"""Bytes of literals in one value of a record."""

LITERALS = ""
"""Key of what literals add; no column has an empty name in an expression."""

Size = Mapping[str, float]
"""Times the size of each column, and bytes under `LITERALS`."""

_CAST_GROWTH = 4


def total(sizes: Iterable[Size]) -> Size:
    """Sizes of values that are put together."""
    result: dict[str, float] = {}
    for size in sizes:
        for name, times in size.items():
            result[name] = result.get(name, 0) + times
    return result


def largest(sizes: Iterable[Size]) -> Size:
    """Sizes of values of which one is taken."""
    result: dict[str, float] = {}
    for size in sizes:
        for name, times in size.items():
            result[name] = max(result.get(name, 0), times)
    return result


def scaled(size: Size, factor: float) -> Size:
    """The size of a value made `factor` times as large."""
    return {name: times * factor for name, times in size.items()}


def cast_size(size: Size) -> Size:
    """The size of a value that was cast to a type of no fixed width."""
    return scaled(size, _CAST_GROWTH)


def check(size: Size, offset: int | None, limit: float = MAX_GROWTH) -> Size:
    """The size, if it is allowed.

    Raises:
        RefusedError: It is too large.
    """
    for name, times in size.items():
        if name == LITERALS and times > MAX_LITERAL_BYTES and limit == MAX_GROWTH:
            raise RefusedError(
                f"a record could get more than {MAX_LITERAL_BYTES} bytes of literals",
                offset=offset,
            )
        if name != LITERALS and times > limit:
            raise RefusedError(
                f"a value could grow to {times:.0f} times the size of column {name!r}; "
                f"{limit} times is allowed",
                offset=offset,
                remedy="repeat or replace less, or do it in two nodes",
            )
    return size


def function_size(  # noqa: PLR0911 - one per measure
    name: str, function: Function, arguments: Sequence[Node], sizes: Sequence[Size]
) -> Size:
    """Bound on the size of what a function returns.

    Raises:
        RefusedError: An argument that decides the size is not a literal.
    """
    if function.literal is not None and len(arguments) > function.literal:
        _literal(name, arguments[function.literal])
    match function.measure:
        case "replace":
            return _replaced(arguments, sizes)
        case "regexp_replace":
            return _pattern_replaced(arguments, sizes)
        case "separator":
            return _separated(name, function, arguments, sizes)
        case "json":
            return _at_path(name, function, arguments, sizes)
        case "pattern":
            return {LITERALS: function.growth * len(_literal(name, arguments[1]))}
        case "max":
            return scaled(largest(sizes), function.growth)
        case "sum":
            return scaled(total(sizes), function.growth) if function.growth else {}


def _literal(name: str, node: Node) -> str:
    if node["class"] != "CONSTANT":
        raise RefusedError(
            f"this argument of {name!r} must be a literal", offset=node.get("offset")
        )
    return str(node["literal"]["text"])


def _replaced(arguments: Sequence[Node], sizes: Sequence[Size]) -> Size:
    if len(arguments) != 3:  # noqa: PLR2004 - text, old, new; binding will say so
        return total(sizes)
    old, new = (_literal("replace", argument) for argument in arguments[1:])
    return scaled(sizes[0], max(1, len(new.encode()) / max(1, len(old.encode()))))


def _pattern_replaced(arguments: Sequence[Node], sizes: Sequence[Size]) -> Size:
    if len(arguments) < 3:  # noqa: PLR2004 - text, pattern, new; binding will say so
        return total(sizes)
    pattern = _literal("regexp_replace", arguments[1])
    new = _literal("regexp_replace", arguments[2])
    factor = max(1, len(new.encode()))
    # A match of nothing stands between any two characters and at both ends.
    return scaled(sizes[0], factor + 1 if may_match_nothing(pattern) and new else factor)


def may_match_nothing(pattern: str) -> bool:
    """Whether a pattern may match an empty piece of a text; `True` when in doubt."""
    import duckdb

    if "\\b" in pattern.lower():
        return True
    try:
        return ask("SELECT regexp_matches('', $1)", pattern) != [(False,)]
    except duckdb.Error:  # binding will say what is wrong with it
        return True


def _separated(
    name: str, function: Function, arguments: Sequence[Node], sizes: Sequence[Size]
) -> Size:
    place = function.literal or 0
    if len(arguments) <= place:
        return total(sizes)
    separator = len(_literal(name, arguments[place]).encode())
    others = total(size for i, size in enumerate(sizes) if i != place)
    if place == 0:
        return total([others, {LITERALS: separator * len(sizes)}])
    return scaled(others, 1 + separator)


def _at_path(
    name: str, function: Function, arguments: Sequence[Node], sizes: Sequence[Size]
) -> Size:
    path = _literal(name, arguments[1]) if len(arguments) > 1 else ""
    # `$..key` gives every level of a nested value once more: quadratic in its depth.
    if ".." in path or "**" in path:
        raise RefusedError(
            f"a path of {name!r} must not search all levels with '..' or '**'",
            offset=arguments[1].get("offset"),
        )
    factor = max(function.growth, 16) if "*" in path and function.growth else function.growth
    return scaled(sizes[0], factor) if sizes and factor else {}
