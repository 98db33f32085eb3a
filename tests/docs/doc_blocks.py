"""The fenced blocks of a Markdown page, each with the comment before it that says how it is tested.

<!-- not run: WHY -->      the block is told, and skipped with this reason
<!-- file: NAME -->        written to NAME in the reader's folder
<!-- shows: PATH -->       stands word for word in this file of the repository
<!-- over: PATH -->        a part of a graph, merged into the graph in PATH, which must compile
<!-- serves: URL -->      started, asked until it answers, and stopped
<!-- connections -->       a connections.json
"""

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"^(?:<!-- (?P<said>.+?) -->\n)?"
    r"^(?P<fence>`{3,})(?P<language>[a-z]*)\n(?P<text>.*?)^(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    text: str
    how: str
    """First word of its comment, such as `file`; empty without one."""
    what: str
    """The rest of the comment."""

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        how, _, what = (match["said"] or "").partition(":")
        line = text.count("\n", 0, match.start("fence")) + 1
        found.append(Block(page, line, match["language"], match["text"], how.strip(), what.strip()))
    return found
