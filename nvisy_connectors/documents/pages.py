"""Where the pages of a document begin in its Markdown text.

The parser marks pages in the text of some formats; of others it tells which block is on which page.
Those blocks are found again in the text: by their letters and digits alone, in their order, so that
neither markup nor line breaks matter.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import TypedDict

_OTHER = re.compile(r"[\W_]+")
_RUN = re.compile(r"[^\W_]+")

AHEAD = 4096
"""Letters and digits that may stand between a block and the one before."""

MAX_PAGES = 100_000


class Page(TypedDict):
    """A page and its range of characters."""

    number: int
    start: int
    end: int


def without_markers(text: str, marker: str) -> tuple[str, dict[int, int]]:
    """The text without its page markers, and where each page began.

    Args:
        text: With markers: `marker`, the number, `marker`, alone in a paragraph.
        marker: What no document holds.
    """
    first, *rest = re.split(f"{marker}(\\d+){marker}", text)
    plain = first.strip("\n")
    starts: dict[int, int] = {}
    for number, part in zip(rest[::2], rest[1::2], strict=True):
        if plain and not plain.endswith("\n\n"):
            plain += "\n\n"
        starts[int(number)] = len(plain)
        plain += part.strip("\n")
    return (plain + "\n" if rest else text), starts


def find_starts(text: str, blocks: Iterable[tuple[int, str]]) -> dict[int, int]:
    """Where each page begins, as far as its blocks can be found.

    Args:
        text: The whole text.
        blocks: Page number and text of each block, in the order of the text.
    """
    runs = [(found.start(), found.group()) for found in _RUN.finditer(text)]
    letters = "".join(run for _, run in runs)
    begins = [0, *accumulate(len(run) for _, run in runs)]
    starts: dict[int, int] = {}
    cursor = 0
    for page, block in blocks:
        wanted = _OTHER.sub("", block)
        if not wanted:
            continue
        place = letters.find(wanted, cursor, cursor + len(wanted) + AHEAD)
        if place < 0:
            continue
        cursor = place + len(wanted)
        if page not in starts:
            run = bisect_right(begins, place) - 1
            character = runs[run][0] + place - begins[run]
            starts[page] = text.rfind("\n", 0, character) + 1
    return starts


def ranges(starts: dict[int, int], count: int, length: int) -> list[Page]:
    """The pages from 1 to the last, without gaps; one that was not found is empty."""
    count = min(max(count, *starts, 0), MAX_PAGES)
    if not starts or not count:
        return []
    places: list[int] = []
    following = length
    for number in range(count, 1, -1):
        following = min(starts.get(number, following), following)
        places.append(following)
    begins = [0, *reversed(places)]
    ends = [*begins[1:], length]
    return [
        Page(number=number, start=start, end=end)
        for number, (start, end) in enumerate(zip(begins, ends, strict=True), 1)
    ]
