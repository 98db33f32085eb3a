"""An expression of a user: one scalar SQL expression over the columns of one record.

The language is DuckDB's scalar SQL, restricted to `allow_list`. What is checked is DuckDB's own
parse tree, so that no second parser has to agree with it.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from nvisy_connectors.tabular import growth
from nvisy_connectors.tabular.allow_list import (
    FIXED_TYPES,
    FUNCTIONS,
    NAMES,
    OPERATORS,
    REFUSED_CLASSES,
    SIZED_TYPES,
)
from nvisy_connectors.tabular.costs import Costly, check_calls, costly
from nvisy_connectors.tabular.growth import Size
from nvisy_connectors.tabular.list_casts import cast_to_lists
from nvisy_connectors.tabular.refusals import not_allowed
from nvisy_connectors.tabular.syntax import Node, RefusedError, parse_one
from nvisy_dagster.sdk import ConfigError
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES

MAX_REASON = 300
"""Longest reason that is shown: a name in an expression can be as long as the expression."""
MAX_NODES = 5000
"""Most parts of one expression."""


@dataclass(frozen=True)
class ColumnUse:
    """A column as an expression writes it."""

    name: str
    offset: int | None


@dataclass(frozen=True)
class Expression:
    """An expression that passed the allow-list, not yet typed."""

    param: str
    """Where it stands in the params, for errors."""
    text: str
    columns: tuple[ColumnUse, ...]
    """Columns that it reads."""
    copies: bool
    """It is one column and nothing else."""
    sizes: tuple[tuple[str, float], ...]
    """Bound on all its intermediate values together, see `growth`."""
    place: tuple[str | int, ...] = ()
    """Keys and indexes that lead to it in the params."""
    calls: tuple[Costly, ...] = ()
    """Calls that are refused for large values."""

    def error(self, refusal: RefusedError) -> ConfigError:
        """The refusal, in the words in which the user reads it."""
        return expression_error(self.param, self.text, refusal, self.place)


def parse_expression(param: str, text: str, place: tuple[str | int, ...] = ()) -> Expression:
    """Check the syntax of an expression and hold it against the allow-list.

    Args:
        param: Where it stands in the params, such as `where` or `set.length`.
        text: The expression.
        place: Keys and indexes that lead to it in the params; by default `param` is its only key.

    Raises:
        ConfigError: It is not one expression, or uses something that is not allowed.
    """
    place = place or (param,)
    try:
        columns, copies, sizes, calls = _checked(text)
    except RefusedError as refusal:
        raise expression_error(param, text, refusal, place) from None
    return Expression(param, text, columns, copies, sizes, place, calls)


def parse_expressions(
    texts: Iterable[tuple[str, str, tuple[str | int, ...]]],
) -> tuple[list[Expression], list[ConfigError]]:
    """Several expressions, each with the arguments of `parse_expression`.

    Returns:
        Those that can be used, and what is wrong with the others.
    """
    sound: list[Expression] = []
    errors: list[ConfigError] = []
    for param, text, place in texts:
        try:
            sound.append(parse_expression(param, text, place))
        except ConfigError as error:
            errors.append(error)
    return sound, errors


def reads(text: str) -> tuple[str, ...] | None:
    """The columns that an expression reads, `None` if it is not allowed."""
    try:
        columns, _, _, _ = _checked(text)
    except RefusedError:
        return None
    return tuple(use.name for use in columns)


def expression_error(
    param: str, text: str, refusal: RefusedError, at: tuple[str | int, ...] = ()
) -> ConfigError:
    """A refusal that names the param, the place in the text and the remedy."""
    place = ""
    data = text.encode(errors="surrogatepass")
    if refusal.offset is not None and 0 <= refusal.offset < len(data):
        before = data[: refusal.offset].decode(errors="ignore")
        place = f" (at character {len(before) + 1})"
    reason = refusal.reason
    if len(reason) > MAX_REASON:
        reason = reason[:MAX_REASON] + "..."
    return ConfigError(
        f"expression {param!r}: {reason}{place}",
        remedy=refusal.remedy,
        tag="expression",
        place=at,
    )


def nearest(name: str, names: Sequence[str]) -> str | None:
    """`did you mean ...?` for a name that is not among these."""
    folded = {known.lower(): known for known in reversed(names)}
    found = difflib.get_close_matches(name.lower(), folded, 1, 0.6)
    return f"did you mean {folded[found[0]]!r}?" if found else None


def existing(names: Sequence[str]) -> str:
    """`there are: ...`: the author's own columns before those of the envelope."""
    own_first = sorted(names, key=ENVELOPE_NAMES.__contains__)
    return f"there are: {', '.join(own_first)[:300]}"


@lru_cache(maxsize=32768)
def _checked(
    text: str,
) -> tuple[tuple[ColumnUse, ...], bool, tuple[tuple[str, float], ...], tuple[Costly, ...]]:
    tree = parse_one(text)
    check = _Check()
    check.visit(tree)
    check_calls(check.calls)
    sizes = growth.check(growth.total(check.sizes), None, growth.MAX_TOTAL_GROWTH)
    copies = tree["class"] == "COLUMN_REF" and len(tree["column_names"]) == 1
    return tuple(dict.fromkeys(check.columns)), copies, tuple(sizes.items()), tuple(check.calls)


_KEYS: Mapping[str, frozenset[str]] = {
    "COLUMN_REF": frozenset(["column_names"]),
    "CONSTANT": frozenset(["literal"]),
    "COMPARISON": frozenset(["left", "right"]),
    "CONJUNCTION": frozenset(["children"]),
    "BETWEEN": frozenset(["input", "lower", "upper"]),
    "CASE": frozenset(["case_checks", "else_expr"]),
    "CAST": frozenset(["child", "try_cast", "type_expr"]),
    "OPERATOR": frozenset(["children"]),
    "FUNCTION": frozenset([
        "function_name",
        "schema",
        "catalog",
        "qualified_name",
        "arguments",
        "filter",
        "order_bys",
        "distinct",
        "is_operator",
        "export_state",
    ]),
    "LAMBDA": frozenset(["lhs", "expr", "syntax_type"]),
    "TYPE": frozenset(["catalog", "schema", "type_name", "children", "qualified_name"]),
}
"""What each allowed class of node is made of; a node with anything else is refused."""

_EVERY = frozenset(["class", "type", "alias", "offset"])


class _Check:
    """Walks a parse tree, refuses what is not allowed, and bounds the size of every part."""

    def __init__(self) -> None:
        self.columns: list[ColumnUse] = []
        self.sizes: list[Size] = []
        self.calls: list[Costly] = []
        self.nodes = 0

    def visit(self, node: Node) -> Size:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise RefusedError(f"it has more than {MAX_NODES} parts")
        kind = str(node["class"])
        keys = _KEYS.get(kind)
        if keys is None or kind == "TYPE":
            reason = REFUSED_CLASSES.get(kind, f"{kind.lower()} is not allowed")
            raise RefusedError(reason, offset=node.get("offset"))
        if node.keys() - keys - _EVERY:
            raise RefusedError("this syntax is not allowed", offset=node.get("offset"))
        visitor: Callable[[Node], Size] = getattr(self, f"_{kind.lower()}")
        return growth.check(visitor(node), node.get("offset"))

    def _column_ref(self, node: Node) -> Size:
        name = str(node["column_names"][0])
        self.columns.append(ColumnUse(name, node.get("offset")))
        return {name.lower(): 1}

    @staticmethod
    def _constant(node: Node) -> Size:
        return {growth.LITERALS: len(str(node["literal"].get("text", "")).encode())}

    def _comparison(self, node: Node) -> Size:
        self.visit(node["left"])
        self.visit(node["right"])
        return {}

    def _conjunction(self, node: Node) -> Size:
        self._each(node["children"])
        return {}

    def _between(self, node: Node) -> Size:
        self._each([node["input"], node["lower"], node["upper"]])
        return {}

    def _case(self, node: Node) -> Size:
        branches: list[Node] = []
        for check in node["case_checks"]:
            self.visit(check["when_expr"])
            branches.append(check["then_expr"])
        return growth.largest(self._each([*branches, node["else_expr"]]))

    def _cast(self, node: Node) -> Size:
        size = self.visit(node["child"])
        call = cast_to_lists(node, size)
        if call is not None:
            self.calls.append(call)
        return growth.cast_size(size) if _type_is_sized(node["type_expr"]) else {}

    def _operator(self, node: Node) -> Size:
        kind = str(node["type"])
        if kind not in OPERATORS:
            name = kind.removeprefix("OPERATOR_").lower()
            raise RefusedError(f"{name!r} is not allowed", offset=node.get("offset"))
        if kind in {"ARRAY_EXTRACT", "STRUCT_EXTRACT", "OPERATOR_COALESCE", "OPERATOR_TRY"}:
            return growth.largest(self._each(node["children"]))
        sizes = self._each(node["children"])
        return sizes[0] if kind == "ARRAY_SLICE" else {}

    def _function(self, node: Node) -> Size:
        written = str(node["function_name"])
        offset = node.get("offset")
        if node["schema"] or node["catalog"]:
            raise RefusedError(
                f"calls with a dot before {written!r} are not allowed",
                offset=offset,
                remedy=f"write {written}(...) with the value as its first argument",
            )
        if (
            node["filter"]
            or node["distinct"]
            or node["export_state"]
            or node["order_bys"]["orders"]
        ):
            raise RefusedError("clauses of aggregates are not allowed", offset=offset)
        name = NAMES.get(written.lower())
        if name is None:
            raise not_allowed(written, offset)
        arguments = [self._argument(name, argument) for argument in node["arguments"]]
        function = FUNCTIONS[name]
        if function.arguments is not None and len(arguments) != function.arguments:
            raise RefusedError(f"{name!r} takes {function.arguments} arguments here", offset=offset)
        given = self._each(arguments)
        size = growth.function_size(name, function, arguments, given)
        self.sizes.append(size)
        call = costly(name, arguments, given, offset)
        if call is not None:
            self.calls.append(call)
        return size

    def _lambda(self, node: Node) -> Size:
        # The parser cannot tell `json -> 'path'` from an old lambda; it is one with a column before
        # and no literal after the arrow, or as an argument of functions that are not allowed.
        arguments = [node["lhs"], node["expr"]]
        if node["syntax_type"] != "SINGLE_ARROW" or node["expr"]["class"] != "CONSTANT":
            raise RefusedError(REFUSED_CLASSES["LAMBDA"], offset=node.get("offset"))
        function = FUNCTIONS["json_extract"]
        size = growth.function_size("->", function, arguments, self._each(arguments))
        self.sizes.append(size)
        return size

    @staticmethod
    def _argument(name: str, argument: Node) -> Node:
        if argument["name"] and name not in {"struct_pack", "struct_insert"}:
            raise RefusedError(
                f"{name!r} takes no named arguments", offset=argument["expression"].get("offset")
            )
        return cast("Node", argument["expression"])

    def _each(self, nodes: list[Any]) -> list[Size]:
        return [self.visit(node) for node in nodes]


def _type_is_sized(node: Node) -> bool:
    """Whether values of a type differ in size; a type that is not listed is refused."""
    if node["class"] == "CONSTANT":
        return False
    name = str(node.get("type_name", "")).lower()
    known = node["class"] == "TYPE" and not (node.keys() - _KEYS["TYPE"] - _EVERY)
    if not known or node["catalog"] or node["schema"] or name not in FIXED_TYPES | SIZED_TYPES:
        raise RefusedError(
            f"the type {name!r} is not allowed in a cast",
            offset=node.get("offset"),
            remedy="use a list, such as FLOAT[]" if name == "array" else None,
        )
    for child in node["children"]:
        _type_is_sized(child)
    return name in SIZED_TYPES
