"""Lines of JSON paths: `$.nodes[3].params.size` -> 42."""

import json
import re
from collections.abc import Iterator

from nvisy_dagster.graph.json_text import MAX_DEPTH
from nvisy_dagster.graph.places import Step, json_path

LARGEST = 2_000_000
"""Characters of the largest text that is looked through: a mistake in a larger one has no line."""

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+|\n', re.DOTALL)
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


class _Walk:
    """Where a walk over the words of a JSON text is."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._in_object: list[bool] = []
        self._line = 1
        self._key_line: int | None = None
        self._expects_key = False

    def take(self, word: str) -> int | None:
        """Take the next word; returns the line of the value that begins with it, if one does.

        Raises:
            IndexError: The text is not JSON, or too deep.
        """
        match word:
            case "\n":
                self._line += 1
            case "}" | "]":
                self._in_object.pop()
                self.steps.pop()
                self._expects_key = False
            case ",":
                self._expects_key = self._in_object[-1]
                if not self._expects_key:
                    self.steps[-1] = int(self.steps[-1]) + 1
            case ":":
                pass
            case _ if self._expects_key:
                self.steps[-1] = _unquoted(word)
                self._key_line, self._expects_key = self._line, False
            case _:
                line, self._key_line = self._key_line or self._line, None
                return line
        return None

    def enter(self, word: str) -> None:
        """Go into the value that begins with this word, if it is an object or array."""
        if word not in {"{", "["}:
            return
        if len(self._in_object) == MAX_DEPTH:
            raise IndexError
        self._expects_key = word == "{"
        self._in_object.append(self._expects_key)
        self.steps.append("" if self._expects_key else 0)


def _values(text: str) -> Iterator[tuple[tuple[Step, ...], int]]:
    """Every value with the line of its key, or of its first character."""
    walk = _Walk()
    for match in _WORD.finditer(text):
        try:
            line = walk.take(match[0])
            if line is not None:
                yield tuple(walk.steps), line
                walk.enter(match[0])
        except (IndexError, ValueError):
            return


def _unquoted(key: str) -> str:
    try:
        return str(json.loads(key))
    except ValueError:
        return key
