"""The sound rest of a document with mistakes, so that its other mistakes can be told as well.

What is wrong is replaced by its default, or by a placeholder where there is none; everything found
later at or below such a place is an echo and left out.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nvisy_dagster.graph.errors import GraphError
from nvisy_dagster.graph.explain import steps_of
from nvisy_dagster.graph.model import Graph
from nvisy_dagster.graph.places import Places, Steps

PLACEHOLDER = "missing"
ROUNDS = 3
"""A mistake may hide another one below it; after so many rounds the document is given up."""

_NODE = {"type": "source", "connector": PLACEHOLDER}


def salvage(document: Mapping[str, Any], error: ValidationError, places: Places) -> Graph | None:
    """A graph without what pydantic found wrong, or `None` if too little is left.

    Args:
        document: What was validated.
        error: What was found.
        places: Where the author wrote what.
    """
    rest: dict[str, Any] = copy.deepcopy(dict(document))
    for _ in range(ROUNDS):
        for finding in error.errors(include_url=False):
            if not _mend(rest, finding):
                return None
        try:
            return Graph.model_validate(rest).placed(places)
        except ValidationError as again:
            error = again
    return None


def without_echoes(errors: Sequence[GraphError], told: Sequence[GraphError]) -> list[GraphError]:
    """The errors that are not at or below the place of one that was told already."""
    places = {error.path for error in told}
    # Of a node of unknown type nothing more is known.
    places |= {path.removesuffix(".type") for path in places}
    return [error for error in errors if not _within(error.path, places)]


def _within(path: str, places: set[str]) -> bool:
    if path in places:
        return True
    return any(path[:end] in places for end in range(2, len(path)) if path[end] in ".[")


def _mend(document: dict[str, Any], finding: ErrorDetails) -> bool:
    steps = steps_of(finding, Graph)
    if not steps:
        return False
    if finding["type"] in {"union_tag_not_found", "union_tag_invalid"}:
        return _replace_node(document, steps)
    if finding["type"] == "missing":
        return _replace(document, steps, PLACEHOLDER)
    if _replace(document, steps, None, remove=True):
        return True
    # A mistake of a whole node, such as two policies that contradict each other.
    return steps[0] == "nodes" and _replace_node(document, steps[:2])


def _replace_node(document: dict[str, Any], steps: Steps) -> bool:
    node: Any = document
    for step in steps:
        node = _child(node, step)
    named = _child(node, "id")
    return _replace(document, steps, {**_NODE, "id": named or PLACEHOLDER})


def _replace(
    document: dict[str, Any],
    steps: Steps,
    value: Any,  # noqa: ANN401 - any JSON
    *,
    remove: bool = False,
) -> bool:
    here: Any = document
    for step in steps[:-1]:
        here = _child(here, step)
    last = steps[-1]
    if isinstance(here, list):
        entries = cast("list[Any]", here)
        if remove or not isinstance(last, int) or last >= len(entries):
            return False
        entries[last] = value
        return True
    if not isinstance(here, dict):
        return False
    keys = cast("dict[str, Any]", here)
    if not remove:
        keys[str(last)] = value
        return True
    return keys.pop(str(last), _ABSENT) is not _ABSENT


_ABSENT = object()


def _child(value: Any, step: str | int) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return cast("dict[Any, Any]", value).get(step)
    if isinstance(value, list) and isinstance(step, int):
        entries = cast("list[Any]", value)
        return entries[step] if step < len(entries) else None
    return None
