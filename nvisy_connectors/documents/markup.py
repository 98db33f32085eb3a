"""Headings and tables of a Markdown text, with their places; for the parser's own Markdown.

The parser writes one normal form: ATX headings, fenced code, tables with pipes at both ends. So one
pass over the lines that begin like these finds what a full Markdown parser would, many times
faster.
"""

import re
from dataclasses import dataclass, field
from typing import TypedDict

_LINE = re.compile(
    r"^(?:(?P<level>#{1,6})(?P<title>[ \t][^\n]*)?|(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)"
    r"|(?P<row>\|[^\n]*))$",
    re.MULTILINE,
)
_DELIMITERS = re.compile(r"\|(?:[ ]*:?-+:?[ ]*\|)+[ ]*")
_CELL_END = re.compile(r"(?<!\\)\|")
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_MARKS = re.compile(r"(?<!\\)(\*{1,3}|~~|`+)(?=\S)(.+?)(?<=\S)(?<!\\)\1")

MARKED_CHARACTERS = 2000
"""Longest text of which the marks of bold and the like are taken out: it takes its square."""


class Heading(TypedDict):
    """A heading and the character at which its line begins."""

    level: int
    title: str
    start: int


class Table(TypedDict):
    """A table, where it stands, and its cells as plain text."""

    start: int
    end: int
    rows: list[list[str]]


@dataclass
class _Open:
    """Lines that may be a table."""

    start: int
    end: int
    lines: list[str] = field(default_factory=list[str])


def structure(text: str) -> tuple[list[Heading], list[Table]]:
    """The headings and tables of a text, in order."""
    headings: list[Heading] = []
    tables: list[Table] = []
    fence: str | None = None
    rows = _Open(-1, -1)
    for line in _LINE.finditer(text):
        if fence is not None:
            if _closes(fence, line["fence"], line["info"]):
                fence = None
        elif line["row"]:
            if line.start() != rows.end + 1:
                tables += _table(rows)
                rows = _Open(line.start(), line.end())
            rows.lines.append(line["row"])
            rows.end = line.end()
        elif line["level"]:
            title = _plain(_unclosed(line["title"] or ""))
            headings.append(Heading(level=len(line["level"]), title=title, start=line.start()))
        elif line["fence"][0] == "~" or "`" not in line["info"]:
            fence = line["fence"]
    return headings, tables + _table(rows)


def _closes(fence: str, found: str | None, info: str | None) -> bool:
    return found is not None and found.startswith(fence) and not (info or "").strip(" ")


def _unclosed(title: str) -> str:
    """A heading's text without the signs that may end its line."""
    title = title.strip()
    shorter = title.rstrip("#")
    return shorter.rstrip() if not shorter or shorter.endswith((" ", "\t")) else title


def _table(rows: _Open) -> list[Table]:
    """The table that some lines are, if they are one."""
    if len(rows.lines) < 2 or not _DELIMITERS.fullmatch(rows.lines[1]):  # noqa: PLR2004 - header, line
        return []
    header = _cells(rows.lines[0])
    width = len(header)
    if width != rows.lines[1].count("|") - 1:
        return []
    cells = [(_cells(line) + [""] * width)[:width] for line in rows.lines[2:]]
    return [Table(start=rows.start, end=rows.end, rows=[header, *cells])]


def _cells(line: str) -> list[str]:
    inner = line.strip()[1:]
    cells = _CELL_END.split(inner)
    return [_plain(cell) for cell in (cells[:-1] if not cells[-1].strip() else cells)]


def _plain(text: str) -> str:
    text = text.strip()
    if len(text) <= MARKED_CHARACTERS and ("*" in text or "`" in text or "~" in text):
        text = _MARKS.sub(r"\2", text)
    return _ESCAPED.sub(r"\1", text) if "\\" in text else text
