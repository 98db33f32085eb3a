"""Every error of the project says its kind with a tag of the table, and every tag is used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import nvisy_connectors
import nvisy_dagster
from nvisy_dagster.sdk.error_tags import ERROR_TAGS

ROOTS = [Path(package.__path__[0]) for package in (nvisy_dagster, nvisy_connectors)]


def texts(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may have as its value, as far as they are written out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*texts(node.body), *texts(node.orelse))
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from texts(value)


def given(node: ast.AST) -> ast.expr | None:
    """The tag that a piece of code gives to an error, if it does."""
    if isinstance(node, ast.keyword) and node.arg == "tag":
        return node.value
    if isinstance(node, ast.Assign):
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return node.value if "default_tag" in names else None
    return None


def used() -> dict[str, str]:
    """Tag -> a file where it is given."""
    found: dict[str, str] = {}
    for file in (file for root in ROOTS for file in root.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            value = given(node)
            found |= dict.fromkeys(texts(value), file.name) if value is not None else {}
    return found


def test_every_tag_is_in_the_table() -> None:
    assert {tag: place for tag, place in used().items() if tag not in ERROR_TAGS} == {}


def test_every_row_of_the_table_is_used() -> None:
    given_by_table = {"permission", "disk_full"}  # errno -> tag
    assert set(ERROR_TAGS) - set(used()) - given_by_table == set()


def test_the_table_is_sorted() -> None:
    assert list(ERROR_TAGS) == sorted(ERROR_TAGS)
