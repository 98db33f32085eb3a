"""JSON paths: how an error says where in the author's document it is."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from nvisy_dagster.sdk.params import camel

Step = str | int
"""A key of an object or an index of an array."""
Steps = tuple[Step, ...]

LONGEST_KEY = 128
"""Longest key that a path shows as it is: no name of ours is longer."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def json_path(steps: Sequence[Step]) -> str:
    """`("nodes", 3, "a b")` -> `$.nodes[3]['a b']`."""
    parts = ["$"]
    for step in steps:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif (len(step) <= LONGEST_KEY and _PLAIN_KEY.fullmatch(step)) or step == "$schema":
            parts.append(f".{step}")
        else:
            parts.append(f"[{_quoted(step)}]")
    return "".join(parts)


def _quoted(key: str, longest: int = LONGEST_KEY) -> str:
    shown = key if len(key) <= longest else key[:longest] + "..."
    return "'" + json.dumps(shown)[1:-1].replace("'", "\\'") + "'"


class Places:
    """From places in the model to places in the document as its author wrote it.

    Args:
        document: The author's document; its own spelling of a key is the one that is shown.
        moved: Places of the model whose content stands elsewhere in the document. A place below
            one of them is looked for below its new place, as far as the document goes.
    """

    def __init__(
        self,
        document: Any = None,  # noqa: ANN401 - any JSON
        moved: Mapping[Steps, Steps] | None = None,
    ) -> None:
        self._document = document
        self._moved = dict(moved or {})

    def __eq__(self, other: object) -> bool:
        # Where a graph was written is no part of what it says.
        return isinstance(other, Places)

    __hash__ = None  # type: ignore[assignment]

    def path(self, steps: Sequence[Step]) -> str:
        """JSON path in the author's document of a place in the model."""
        steps = tuple(steps)
        start, moved = self._start(steps)
        return json_path(self._spelled(start, steps[len(moved) :] if moved else steps, moved))

    def _start(self, steps: Steps) -> tuple[Steps, Steps]:
        for length in range(len(steps), 0, -1):
            known = self._moved.get(steps[:length])
            if known is not None:
                return known, steps[:length]
        return (), ()

    def _spelled(self, start: Steps, rest: Steps, moved: Steps) -> Steps:
        """`start` and `rest`, each key as the author spelled it.

        Below a moved place, what the author never wrote has no address: the path ends before it.
        """
        here = self._document
        for step in start:
            here = _child(here, step)
        shown = list(start)
        for step in rest:
            spelled = _spelling(here, step)
            if spelled is None and moved:
                break
            shown.append(step if spelled is None else spelled)
            here = _child(here, shown[-1])
        return tuple(shown)


def _child(value: Any, step: Step) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return cast("dict[Step, Any]", value).get(step)
    if isinstance(value, list) and isinstance(step, int):
        items = cast("list[Any]", value)
        return items[step] if 0 <= step < len(items) else None
    return None


def _spelling(value: Any, step: Step) -> Step | None:  # noqa: ANN401 - any JSON
    if isinstance(step, int):
        return step if isinstance(value, list) and step < len(cast("list[Any]", value)) else None
    if not isinstance(value, dict):
        return None
    return next((key for key in (step, camel(step), step.rstrip("_")) if key in value), None)
