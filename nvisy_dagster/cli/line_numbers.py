"""Lines of JSON paths: `$.nodes[3].params.size` -> 42."""

import re
from collections.abc import Iterator

from nvisy_dagster.graph.places import Step, json_path

LARGEST = 2_000_000
"""Characters of the largest text that is looked through: a mistake in a larger one has no line."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+|\n', re.DOTALL)
_LAST_STEP = re.compile(r"(\.[^.\[\]]+|\[[^\[\]]*\])$")


class LineNumbers:
    """Where the values of a JSON text stand.

    Args:
        text: The text; one that is not JSON has no lines.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[str, int] = {}
        if len(text) <= LARGEST:
            for steps, line in _values(text):
                self._lines.setdefault(json_path(steps), line)

    def line(self, path: str) -> int | None:
        """Line of the value at this path or, if there is none, of the nearest around it."""
        while path not in self._lines:
            shorter = _LAST_STEP.sub("", path)
            if shorter == path:
                return None
            path = shorter
        return self._lines[path]


def _values(text: str) -> Iterator[tuple[tuple[Step, ...], int]]:
    """Every value with the line of its key, or of its first character."""
    steps: list[Step] = []
    objects: list[bool] = []
    line = 1
    key_line: int | None = None
    expects_key = False
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "\n":
            line += 1
        elif token in {"}", "]"}:
            if not objects:
                return
            objects.pop()
            steps.pop()
            expects_key = False
        elif token == ",":
            if not objects:
                return
            expects_key = objects[-1]
            if not expects_key:
                steps[-1] = int(steps[-1]) + 1
        elif expects_key:
            steps[-1], key_line, expects_key = _unquoted(token), line, False
        elif token != ":":
            yield tuple(steps), key_line or line
            key_line = None
            if token in {"{", "["}:
                objects.append(token == "{")
                expects_key = token == "{"
                steps.append("" if expects_key else 0)


def _unquoted(token: str) -> str:
    import json

    try:
        return str(json.loads(token))
    except ValueError:
        return token
