"""From the text of an expression to DuckDB's parse tree, one expression and nothing else."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any, cast

from nvisy_connectors.tabular.bulk import known_trees
from nvisy_connectors.tabular.database import TABLE, sql_texts, syntax_trees, syntax_trees_of

MAX_CHARACTERS = 20_000
"""Longest text of an expression."""
MAX_BRACKETS = 64
"""Deepest nesting of brackets; the parser's time explodes with unclosed ones."""

Node = dict[str, Any]

BEFORE = "SELECT (\n"
AFTER = f"\n) FROM {TABLE}"
_BARE_BEFORE = "SELECT\n"
_BARE_AFTER = f"\nFROM {TABLE}"
_LOCATIONS = re.compile(r'"query_location(?:_length)?":\d+,?')


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
    known = known_trees(text)
    if known is None:
        _check_size(text)
    enclosed, bare = known or syntax_trees(*_statements(text))
    selected = _select_list(enclosed, text, len(BEFORE))
    # The texts of the trees, since comparing ten thousand trees part by part takes a second.
    if len(selected) != 1 or _without_locations(enclosed) != _without_locations(bare):
        _select_list(bare, text, len(_BARE_BEFORE))
        raise RefusedError("there must be exactly one expression")
    return selected[0]


def texts_of(trees: Sequence[Node]) -> list[str]:
    """The SQL of parse trees of one expression each; parsed again, it gives the same trees.

    Raises:
        RefusedError: There is no such SQL.
    """
    bare, _ = syntax_trees("SELECT 1", "SELECT 1")
    statement = json.loads(bare)
    written: list[str] = []
    for tree in trees:
        statement["statements"][0]["node"]["select_list"] = [without_offsets(tree)]
        written.append(json.dumps(statement))
    texts = [text.removeprefix("SELECT ") for text in sql_texts(written)]
    if [without_offsets(parse_one(text)) for text in texts] != list(map(without_offsets, trees)):
        raise RefusedError("its tree cannot be written as SQL")
    return texts


def without_offsets(part: Any) -> Any:  # noqa: ANN401 - a part of a tree, of any type
    """A part of a tree without where it stood in the text."""
    if isinstance(part, list):
        return [without_offsets(one) for one in cast("list[object]", part)]
    if isinstance(part, dict):
        node = cast("Node", part)
        return {key: without_offsets(value) for key, value in node.items() if key != "offset"}
    return part


def parse_many(texts: Sequence[str]) -> list[tuple[str, tuple[str, str]]]:
    """Texts of a sound size with the parse trees, as JSON, of their two statements."""
    sound: list[str] = []
    for text in texts:
        with suppress(RefusedError):
            _check_size(text)
            sound.append(text)
    statements = [statement for text in sound for statement in _statements(text)]
    trees = syntax_trees_of(statements)
    return list(zip(sound, zip(trees[::2], trees[1::2], strict=True), strict=True))


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


def _select_list(tree: str, text: str, start: int) -> list[Node]:
    """What a statement selects, if it does nothing else; its text begins at byte `start`."""
    found = _loaded(tree, start)
    if found.get("error"):
        raise _syntax_error(found, text, start)
    statements = found["statements"]
    node: Node = statements[0]["node"] if len(statements) == 1 else {}
    selected = node.get("select_list")
    # Everything else must be what a statement without any further clause has.
    if not selected or _clauses(node) != _plain_clauses():
        raise RefusedError("there must be exactly one expression, and no further clause")
    return selected


def _loaded(tree: str, start: int) -> Node:
    """A tree whose locations are offsets in the text of the expression."""

    def relocate(part: Node) -> Node:
        part.pop("query_location_length", None)
        location = part.pop("query_location", None)
        if isinstance(location, int) and location < 1 << 63:
            part["offset"] = location - start
        return part

    return json.loads(tree, object_hook=relocate)


def _without_locations(tree: str) -> str:
    # Within a text of the tree its quotes are escaped, so nothing there looks like this.
    return _LOCATIONS.sub("", tree)


@cache
def _plain_clauses() -> Node:
    tree, _ = syntax_trees(f"{BEFORE}1{AFTER}", "SELECT 1")
    return _clauses(_loaded(tree, 0)["statements"][0]["node"])


def _clauses(node: Node) -> Node:
    clauses = {name: part for name, part in node.items() if name != "select_list"}
    clauses["from_table"] = {k: v for k, v in node["from_table"].items() if k != "offset"}
    return clauses


def _syntax_error(tree: Node, text: str, start: int) -> RefusedError:
    position = tree.get("position")
    offset = int(position) - start if position is not None else None
    message = str(tree["error_message"]).splitlines()[0]
    if "expression depth" in message:
        return RefusedError("it is nested too deeply")
    if offset is not None and offset >= len(text.encode()):
        return RefusedError("it ends too early", remedy="complete the expression")
    return RefusedError(message[:200], offset=offset)
