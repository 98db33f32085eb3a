"""What is wrong with a document: every mistake at once, each with its place and its remedy."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nvisy_dagster.sdk.errors import ConfigError

SHOWN = 50
"""Mistakes that the text of a `GraphErrors` lists; `errors` has them all."""


@dataclass(frozen=True)
class GraphError:
    """One mistake.

    Args:
        path: JSON path of the place in the author's document.
        message: What is wrong there, in one sentence.
        remedy: What the author can do about it.
        line: Line of the text, counted from 1, when the text is not JSON.
        column: Column in that line, counted from 1.
    """

    path: str
    message: str
    remedy: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = self.path if self.line is None else f"line {self.line}, column {self.column}"
        text = f"{place}: {self.message}"
        return f"{text} ({self.remedy})" if self.remedy else text


class GraphErrors(ConfigError):  # noqa: N818 - it carries several
    """A document cannot be used; `errors` says all that is wrong with it.

    Args:
        errors: At least one mistake, in the order of the document.
        what: What the document is: `graph`, `connections`.
        file: Name of the file it came from, if it came from one.
    """

    default_tag = "graph"

    def __init__(
        self, errors: Sequence[GraphError], *, what: str = "graph", file: str | None = None
    ) -> None:
        self.errors = tuple(errors)
        self.what = what
        self.file = file
        lines = [str(error) for error in self.errors[:SHOWN]]
        if len(self.errors) > SHOWN:
            lines.append(f"and {len(self.errors) - SHOWN} more")
        mistakes = "one mistake" if len(self.errors) == 1 else f"{len(self.errors)} mistakes"
        where = f"{what} {file}" if file else what
        super().__init__(f"{where}: {mistakes}\n" + "\n".join(f"  {line}" for line in lines))


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """The valid word that was probably meant, if one is near."""
    if len(word) > 200:  # noqa: PLR2004 - comparing is quadratic; no name of ours is that long
        return None
    words = {candidate.lower(): candidate for candidate in valid}
    found = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    return words[found[0]] if found else None


def suggest(word: str, valid: Iterable[str], *, few: int = 24) -> str | None:
    """A remedy for an unknown word: the nearest valid one, or all of them when they are few."""
    words = sorted(valid)
    near = nearest(word, words)
    if near is not None:
        return f'did you mean "{near}"?'
    return f"valid here: {', '.join(words)}" if 0 < len(words) <= few else None


def shown(value: str, longest: int = 60) -> str:
    """A word of the author's, quoted for a message, cut when it is long."""
    cut = value if len(value) <= longest else value[:longest] + "..."
    return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut) + '"'
