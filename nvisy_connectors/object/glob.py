"""Shell patterns over keys: `*` and `?` stay within a folder, `**` crosses folders."""

import re
from functools import cache


def check_pattern(pattern: str) -> str:
    """Refuse a pattern that could never match a key, or means to leave the folder.

    Raises:
        ValueError: It is absolute, climbs up, or is no valid pattern.
    """
    if pattern.startswith("/"):
        raise ValueError("a glob is relative to the folder: it must not begin with '/'")
    if ".." in pattern.split("/"):
        raise ValueError("a glob must not leave the folder: remove '..'")
    compile_glob(pattern)
    return pattern


@cache
def compile_glob(
    pattern: str, left_out: str | None = None, *, whole_names: bool = True
) -> re.Pattern[str]:
    """The regular expression that matches the same keys.

    Args:
        pattern: With `*`, `?`, `[abc]` and `**`.
        left_out: How names begin, as a regular expression, that no such sign stands for: the
            pattern must spell the beginning out.
        whole_names: Whether keys begin with a name, and not within one.

    Raises:
        ValueError: The pattern is not valid.
    """
    begin = "" if left_out is None else f"(?!{left_out})"
    if begin and not whole_names:
        begin = rf"(?:\A|{begin})"
    out: list[str] = []
    segments = pattern.split("/")
    for place, segment in enumerate(segments):
        last = place == len(segments) - 1
        if segment == "**":
            out.append(f"(?:{begin}[^/]*/)*{begin}[^/]*" if last else f"(?:{begin}[^/]+/)*")
        else:
            out.append(begin if segment[:1] in {"*", "?", "["} else "")
            out.append(_segment(segment) + ("" if last else "/"))
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error as error:
        raise ValueError(f"the glob {pattern!r} is not valid: {error}") from error


def _segment(segment: str) -> str:
    out: list[str] = []
    place = 0
    while place < len(segment):
        char = segment[place]
        place += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := segment.find("]", place + 1)) > 0:
            chosen = segment[place:end].replace("\\", r"\\").replace("[", r"\[")
            out.append(f"[^/{chosen[1:]}]" if chosen.startswith("!") else f"[{chosen}]")
            place = end + 1
        else:
            out.append(re.escape(char))
    # `***` is `*` to the shell; repeated groups would only cost time on hostile patterns.
    return re.sub(r"(?:\[\^/\]\*)+", "[^/]*", "".join(out))
