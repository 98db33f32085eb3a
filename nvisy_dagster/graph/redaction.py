"""Keeping secrets out of what is shown."""

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST = 4
"""Shorter values are no secrets: masking each `a` or `80` would garble every message, and the
masks would spell the value out."""
SHORTEST_LINE = 16
"""A line of a secret of several lines (a PEM key) is masked alone from this length on."""


class Redactor:
    """Replaces secrets in texts.

    Values are found as they are and as messages tend to quote them: escaped for JSON or Python,
    percent-encoded in a URL, in base64.

    Args:
        values: The secrets; those shorter than `SHORTEST` are ignored.
    """

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values for form in _forms(value)}
        # Longest first: a secret that begins with another one must not be cut in half.
        words = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(re.escape, words))) if words else None

    def __repr__(self) -> str:
        return "Redactor()"

    def scrub(self, text: str) -> str:
        """The text with every secret replaced by `***`."""
        return self._pattern.sub(MASK, text) if self._pattern else text


def _forms(value: str) -> set[str]:
    if len(value.strip()) < SHORTEST:
        return set()
    lines = value.splitlines()
    parts = [
        line.strip() for line in lines if len(lines) > 1 and len(line.strip()) >= SHORTEST_LINE
    ]
    forms: set[str] = set(parts)
    for whole in {value, value.strip()}:
        encoded = whole.encode("utf-8", "replace")
        forms |= {
            whole,
            json.dumps(whole)[1:-1],
            json.dumps(whole, ensure_ascii=False)[1:-1],
            repr(whole)[1:-1],
            quote(whole, safe="", errors="replace"),
            quote(whole, errors="replace"),
            quote_plus(whole, errors="replace"),
            base64.b64encode(encoded).decode(),
            base64.urlsafe_b64encode(encoded).decode(),
        }
    return forms
