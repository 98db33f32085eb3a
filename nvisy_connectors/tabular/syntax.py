"""From the text of an expression to DuckDB's parse tree, one expression and nothing else."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

from nvisy_connectors.tabular.bulk import known_trees
from nvisy_connectors.tabular.database import TABLE, syntax_trees, syntax_trees_of

MAX_CHARACTERS = 20_000
"""Longest text of an expression."""
MAX_BRACKETS = 64
"""Deepest nesting of brackets; the parser's time explodes with unclosed ones."""

Node = dict[str, Any]

BEFORE = "SELECT (\n"
AFTER = f"\n) FROM {TABLE}"
_BARE_BEFORE = "SELECT\n"
_BARE_AFTER = f"\nFROM {TABLE}"
_LOCATION = ("query_location", "query_location_length")


class RefusedError(Exception):
    """An expression cannot be used.

    Args:
        reason: What is wrong, without the name of the param that holds the expression.
        offset: Where, as a byte offset in the UTF-8 text of the expression.
        remedy: What the reader can do about it.
    """

    def __init__(
        self, reason: str, *, offset: int | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset
        self.remedy = remedy


def parse_one(text: str) -> Node:
    """The parse tree of a text that is one expression; locations are offsets in the text.

    The text is parsed inside brackets, as it will run, and bare. Only what means the same in both
    is one whole expression: `a) + (b`, `a FROM t --` and `a IS DISTINCT` each mean something in
    one place and something else, or nothing, in another.

    Raises:
        RefusedError: It is not one expression, or too large.
    """
    _check_size(text)
    known = known_trees(text)
    trees = (
        syntax_trees(*_statements(text))
        if known is None
        else (json.loads(known[0]), json.loads(known[1]))
    )
    enclosed = _select_list(trees[0], text, len(BEFORE))
    bare = _select_list(trees[1], text, len(_BARE_BEFORE))
    if len(enclosed) != 1 or len(bare) != 1 or not _same(bare[0], enclosed[0]):
        raise RefusedError("there must be exactly one expression")
    return _relocated(enclosed[0], len(BEFORE))


def parse_many(texts: Iterable[str], per_statement: int) -> Iterator[tuple[str, tuple[str, str]]]:
    """Texts of a sound size with the parse trees, as JSON, of their two statements."""
    sound: list[str] = []
    for text in texts:
        with suppress(RefusedError):
            _check_size(text)
            sound.append(text)
    for start in range(0, len(sound), per_statement):
        some = sound[start : start + per_statement]
        statements = [statement for text in some for statement in _statements(text)]
        trees = syntax_trees_of(statements)
        yield from zip(some, zip(trees[::2], trees[1::2], strict=True), strict=True)


def _statements(text: str) -> tuple[str, str]:
    return BEFORE + text + AFTER, _BARE_BEFORE + text + _BARE_AFTER


def _check_size(text: str) -> None:
    import duckdb

    if not text.strip():
        raise RefusedError("it is empty", remedy="write a SQL expression")
    if len(text) > MAX_CHARACTERS:
        raise RefusedError(f"it is longer than {MAX_CHARACTERS} characters")
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise RefusedError("it holds a lone surrogate, which no text can hold") from None
    if b"\0" in data:
        raise RefusedError("it holds a NUL character")
    depth = 0
    for offset, kind in duckdb.tokenize(text):
        if kind != duckdb.token_type.operator:
            continue
        character = data[offset : offset + 1]
        depth += (character in {b"(", b"[", b"{"}) - (character in {b")", b"]", b"}"})
        if depth > MAX_BRACKETS:
            raise RefusedError(f"brackets are nested deeper than {MAX_BRACKETS}", offset=offset)


def _select_list(tree: Node, text: str, start: int) -> list[Node]:
    if tree.get("error"):
        raise _syntax_error(tree, text, start)
    statements = tree["statements"]
    node: Node = statements[0]["node"] if len(statements) == 1 else {}
    selected = node.get("select_list")
    # Everything else must be what a statement without any further clause has.
    if not selected or not _same(_clauses(node), _plain_clauses()):
        raise RefusedError("there must be exactly one expression, and no further clause")
    return selected


@cache
def _plain_clauses() -> Node:
    tree, _ = syntax_trees(f"{BEFORE}1{AFTER}", "SELECT 1")
    return _clauses(tree["statements"][0]["node"])


def _clauses(node: Node) -> Node:
    return {name: part for name, part in node.items() if name != "select_list"}


def _syntax_error(tree: Node, text: str, start: int) -> RefusedError:
    position = tree.get("position")
    offset = int(position) - start if position is not None else None
    message = str(tree["error_message"]).splitlines()[0]
    if "expression depth" in message:
        return RefusedError("it is nested too deeply")
    if offset is not None and offset >= len(text.encode()):
        return RefusedError("it ends too early", remedy="complete the expression")
    return RefusedError(message[:200], offset=offset)


def _same(one: Any, other: Any) -> bool:  # noqa: ANN401 - any parts of trees
    """Whether two trees are equal but for locations."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            key in _LOCATION or _same(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other


def _relocated(tree: Any, shift: int) -> Any:  # noqa: ANN401 - any part of a tree
    """A copy with locations moved by `shift`."""
    if isinstance(tree, list):
        return [_relocated(part, shift) for part in tree]
    if not isinstance(tree, dict):
        return tree
    copy: Node = {k: _relocated(v, shift) for k, v in tree.items() if k not in _LOCATION}
    location = tree.get("query_location")
    if isinstance(location, int) and location < 1 << 63:
        copy["offset"] = location - shift
    return copy
