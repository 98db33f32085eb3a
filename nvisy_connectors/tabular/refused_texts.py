"""In which of its ways DuckDB refuses a text, as far as the text tells.

What it says of two texts that a cast refuses in the same way differs in the text alone. The rules
here were tried on many thousand texts; of a text that they do not cover, DuckDB has to be asked.
"""

import re

from nvisy_connectors.tabular.allow_list import FIXED_TYPES

_DATED = frozenset([
    "date",
    "datetime",
    "timestamp",
    "timestamp_us",
    "timestamptz",
    "timestamp with time zone",
])
_MANY_WAYS = frozenset(["interval", "timestamp_ms"])
_ONE_WAY = FIXED_TYPES - _DATED - _MANY_WAYS
"""Types of which DuckDB says the same of every text."""

_NO_YEAR = re.compile(r"\s*(?:-?\d{1,5})?(?:[^\d\s\-/\\]|$)")
_FULL = re.compile(r"\d{4}-\d\d-\d\d(?:[ T](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d)?)?")
"""Of a refused text of this form, the day is not in the calendar."""

_NO_JSON = re.compile(r"[A-Za-z#*<>=(]")
"""A first character with which no JSON begins."""
_JSON_LITERALS = "tfnNI"
_MAX_JSON = 40
"""Longest text of which DuckDB surely shows all."""

STRPTIME = "strptime:"
"""What a kind begins with that is no type; the text that says how others are read follows."""
_NUMBER_FIRST = re.compile("%-?[dfHIjmMSyY]")
_OUT_OF_RANGE = re.compile("29|30|31|36|53|00")
"""One of these is in every text that `strptime` can read but for a day that does not exist."""


def way_of_refusal(kind: str, text: str) -> str | None:
    """How a text is refused: a word that is the same for all texts that are refused alike.

    Args:
        kind: The type that it is cast to, in lower case; or `strptime:` and what it is given.
        text: A text that is refused.

    Returns:
        `None` if the text does not tell.
    """
    # DuckDB writes control characters in a way of its own.
    if not text.isprintable():
        return None
    if kind in _ONE_WAY:
        return "text"
    if kind.startswith(STRPTIME):
        other = _NUMBER_FIRST.match(kind, len(STRPTIME)) and not text.lstrip()[:1].isdigit()
        return "form" if other or not _OUT_OF_RANGE.search(text) else None
    if kind in _DATED:
        return "form" if _NO_YEAR.match(text) else "day" if _FULL.fullmatch(text) else None
    if kind == "json" and len(text) <= _MAX_JSON and text.isascii():
        return "start" if _NO_JSON.match(text) and text[0] not in _JSON_LITERALS else None
    return None
