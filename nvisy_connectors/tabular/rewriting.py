"""Parse trees in which what refuses values is replaced by a column of its result."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from nvisy_connectors.tabular.allow_list import FIXED_TYPES, MACROS
from nvisy_connectors.tabular.refused_texts import STRPTIME
from nvisy_connectors.tabular.syntax import Node, parse_one, without_offsets

PREFIX = "__nvisy_try_"
"""How the columns are called that stand for what was taken out."""

JSON_FUNCTIONS = frozenset([
    "->",
    "->>",
    "json_array_length",
    "json_exists",
    "json_extract",
    "json_extract_path",
    "json_extract_path_text",
    "json_extract_string",
    "json_keys",
    "json_type",
])
"""Functions that read their first argument as JSON, and fail if it is none."""

_STRPTIME_ARGUMENTS = 2
_BLANKS = r"[\s\x0b]*"


@dataclass(frozen=True)
class TakenOut:
    """Something that refuses some values, such as a cast."""

    kind: str
    """The type of a cast in lower case; or `strptime:` and what it is given."""
    value: Node
    """What it takes."""
    attempt: Node
    """The same, giving NULL where it would fail."""
    level: int = 0
    """It reads columns of lower levels only."""


class Rewriting:
    """Rewrites the expressions of one node; what they have in common is taken out once.

    Args:
        texts: Columns that hold text, in lower case.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.taken_out: list[TakenOut] = []
        self._texts = frozenset(texts)
        self._places: dict[str, int] = {}
        self._used: dict[int, bool] = {}

    def rewrite(self, tree: Node) -> tuple[Node, Mapping[int, bool]]:
        """An expression without what refuses values, and what was taken out.

        Returns:
            The tree, and by the place of each part in `taken_out` whether it is evaluated whatever
            the values are.
        """
        self._used = {}
        node, _ = self._part(tree, frozenset([id(tree)]))
        return node, self._used

    def _part(self, part: object, always: frozenset[int]) -> tuple[Any, int]:
        """A part of a tree rewritten, and how many levels of columns it reads."""
        if isinstance(part, list):
            made = [self._part(one, always) for one in cast("list[object]", part)]
            return [one for one, _ in made], max((level for _, level in made), default=0)
        if not isinstance(part, dict) or cast("Node", part).get("type") == "OPERATOR_TRY":
            return part, 0
        node = cast("Node", part)
        certain = id(node) in always
        if "class" in node:
            always = frozenset(map(id, always_evaluated(node))) if certain else frozenset()
        found = {key: self._part(value, always) for key, value in node.items()}
        rewritten = {key: value for key, (value, _) in found.items()}
        level = max((level for _, level in found.values()), default=0)
        if node.get("class") == "CAST" and _refuses_values(node):
            kind = str(node["type_expr"]["type_name"]).lower()
            attempt = rewritten | {"try_cast": True}
            taken = TakenOut(kind, rewritten["child"], attempt, level)
            return self._column(taken, certain=certain), level + 1
        if _is_strptime(node):
            text, form = _arguments(rewritten)
            attempt = _filled(_try_strptime(), {"x": text, "f": form})
            taken = TakenOut(f"{STRPTIME}{form['literal']['text']}", text, attempt, level)
            return self._column(taken, certain=certain), level + 1
        return self._with_json(rewritten, level, certain=certain)

    def _with_json(self, node: Node, level: int, *, certain: bool) -> tuple[Node, int]:
        """A call of a JSON function on a text column takes it as JSON, where it is some."""
        function = str(node.get("function_name", "")).lower()
        argument: Node | None = None
        if node.get("class") == "LAMBDA":
            argument = node["lhs"]
        elif node.get("class") == "FUNCTION" and function in JSON_FUNCTIONS and node["arguments"]:
            argument = _arguments(node)[0]
        if argument is None or argument["class"] != "COLUMN_REF":
            return node, level
        name = argument["column_names"]
        if len(name) != 1 or str(name[0]).lower() not in self._texts:
            return node, level
        attempt = parse_one("TRY_CAST(x AS JSON)") | {"child": argument}
        column = self._column(TakenOut("json", argument, attempt), certain=certain)
        if node["class"] == "LAMBDA":
            return node | {"lhs": column}, max(level, 1)
        first, *others = node["arguments"]
        return node | {"arguments": [first | {"expression": column}, *others]}, max(level, 1)

    def _column(self, taken: TakenOut, *, certain: bool) -> Node:
        key = json.dumps(without_offsets(taken.attempt))
        place = self._places.setdefault(key, len(self.taken_out))
        if place == len(self.taken_out):
            self.taken_out.append(taken)
        self._used[place] = self._used.get(place, False) or certain
        names = [f"{PREFIX}{place}"]
        return {"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": names}


def always_evaluated(node: Node) -> Iterable[Node]:  # noqa: PLR0911 - one per class
    """Parts that are evaluated whatever the values; not all such parts, but no others."""
    match node["class"]:
        case "CAST":
            return (node["child"],)
        case "COMPARISON":
            return node["left"], node["right"]
        case "CONJUNCTION":
            return node["children"][:1]
        case "OPERATOR" if node["type"] in _FIRST_EVALUATED:
            return node["children"][:1]
        case "BETWEEN":
            return (node["input"],)
        case "CASE":
            return (node["case_checks"][0]["when_expr"],)
        case "FUNCTION" if str(node["function_name"]).lower() not in MACROS:
            return _arguments(node)
        case _:
            return ()


_FIRST_EVALUATED = frozenset([
    "OPERATOR_COALESCE",
    "OPERATOR_IS_NOT_NULL",
    "OPERATOR_IS_NULL",
    "OPERATOR_NOT",
])


def _arguments(node: Node) -> list[Node]:
    return [argument["expression"] for argument in node["arguments"]]


def _refuses_values(node: Node) -> bool:
    """Whether a cast can fail in a way that `TRY_CAST` turns into NULL as a whole.

    Of a list, it would only turn the item into NULL.
    """
    kind = node["type_expr"]
    return (
        not node["try_cast"]
        and kind["class"] == "TYPE"
        and str(kind["type_name"]).lower() in FIXED_TYPES
        and _reads_columns(node["child"])
    )


def _is_strptime(node: Node) -> bool:
    """Whether it is a call that reads columns in a form that is a literal."""
    if node.get("class") != "FUNCTION" or str(node["function_name"]).lower() != "strptime":
        return False
    arguments = _arguments(node)
    return (
        len(arguments) == _STRPTIME_ARGUMENTS
        and _reads_columns(arguments[0])
        and arguments[1].get("literal", {}).get("kind") == "STRING"
    )


@cache
def _try_strptime() -> Node:
    """`strptime(x, f)` in a form that gives NULL where that fails.

    Of three words `try_strptime` alone makes another time.
    """
    word = rf"regexp_matches(x, '^{_BLANKS}(?i:-?infinity|epoch){_BLANKS}$')"
    return parse_one(f"CASE WHEN {word} THEN strptime(x, f) ELSE try_strptime(x, f) END")


def _filled(part: Any, parts: Mapping[str, Node]) -> Any:  # noqa: ANN401 - any part of a tree
    """A tree with others in the place of its columns."""
    if isinstance(part, list):
        return [_filled(one, parts) for one in cast("list[object]", part)]
    if not isinstance(part, dict):
        return part
    node = cast("Node", part)
    if node.get("class") == "COLUMN_REF":
        return parts[node["column_names"][0]]
    return {key: _filled(value, parts) for key, value in node.items()}


def _reads_columns(part: object) -> bool:
    if isinstance(part, list):
        return any(_reads_columns(one) for one in cast("list[object]", part))
    if not isinstance(part, dict):
        return False
    node = cast("Node", part)
    return node.get("class") == "COLUMN_REF" or any(map(_reads_columns, node.values()))
