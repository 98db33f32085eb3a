"""How much work a regular expression can make, known before it runs.

The matcher never backtracks: it reads a text once, holding every place of the pattern where it
could be, so its time is at most the length of the text times the `weight` of the pattern. Finding
all matches is the exception: `a*b|a` reads to the end of a text of `a` to find a match of one
character, then reads the rest again, and again. Such a pattern is not `linear`.
"""

import re
from dataclasses import dataclass

UNBOUNDED = 1_000_000
"""Stands for a repetition without an end."""
_CLASS_WEIGHT = 8
"""A class of Unicode, such as `\\pL`, is made of hundreds of ranges of bytes."""

_TOKEN = re.compile(
    r"""
      (?P<quoted>   \\Q (?:.*?) (?:\\E|$) )
    | (?P<unicode>  \\[pP] (?: \{[^}]*\} | . ) )
    | (?P<assert>   \\[bBAzZ] | [\^$] )
    | (?P<atom>     \\x\{[^}]*\} | \\. | \[ \^? \]? (?: \[:[^\]]*:\] | \\. | [^\]\\] )* \] )
    | (?P<flags>    \(\? [A-Za-z-]+ \) )
    | (?P<open>     \( (?: \?P?<[^>]*> | \?[A-Za-z-]*: )? )
    | (?P<close>    \) )
    | (?P<or>       \| )
    | (?P<repeat>   (?: [*+?] | \{ \d+ (?: , \d* )? \} ) \?? )
    | (?P<other>    . )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Pattern:
    """What is known of a regular expression."""

    weight: int
    """Most places where a match can be at once."""
    linear: bool
    """Whether finding all matches reads a text a bounded number of times."""


@dataclass
class _Group:
    weight: int = 0
    """Of the branches that are complete, and of the one that is read, without its last part."""
    last: int = 0
    """Of the last part, which a repetition may follow."""
    group: bool = False
    """The last part is a group."""
    choice: bool = False
    open_end: bool = False
    """A branch of it holds a repetition without an end."""
    free: int = 0
    """Branches that may match anywhere."""
    fresh: bool = True
    """Nothing of the branch was read yet."""
    anchored: bool = False
    """The branch that is read can only match at the start of the text."""
    early: bool = False
    """Something follows such a repetition."""
    ended: bool = False
    """The branch that is read holds one."""
    inner: "_Group | None" = None
    """The last part, if it is a group."""

    def part(self, weight: int, inner: "_Group | None" = None) -> None:
        self.fresh = False
        self.weight += self.last
        self.last, self.inner = weight, inner
        self.early = self.early or self.ended
        if inner is not None:
            self.choice = self.choice or inner.choice
            self.early = self.early or inner.early
            self.open_end = self.open_end or inner.open_end
            self.ended = self.ended or inner.open_end

    def repeat(self, most: int, least: int) -> None:
        count = least + 1 if most == UNBOUNDED else most
        self.last = max(1, self.last) * max(1, count)
        if self.inner is not None:
            # Whether it is there, or how often, is a choice like any other.
            self.choice = True
            self.early = self.early or (most > 1 and self.inner.open_end) or most == UNBOUNDED
        if most == UNBOUNDED:
            self.open_end = self.ended = True

    def position(self, *, start: bool) -> None:
        if start and self.fresh:
            self.anchored = True
        self.early = self.early or self.ended

    def branch(self) -> None:
        self.free += not self.anchored
        self.choice = self.choice or self.free > 1
        self.ended = False
        self.part(0)
        self.fresh, self.anchored = True, False


def pattern_of(text: str) -> Pattern:
    """What a regular expression can cost; where it cannot be told, it is taken to cost much."""
    groups = [_Group()]
    lines = False
    for token in _TOKEN.finditer(text):
        kind, written = str(token.lastgroup), token.group()
        top = groups[-1]
        match kind:
            case "open":
                groups.append(_Group())
            case "close" if len(groups) > 1:
                inner = groups.pop()
                inner.branch()
                groups[-1].part(inner.weight + inner.last, inner)
            case "or":
                top.branch()
            case "repeat":
                top.repeat(*_counts(written))
            case "quoted":
                top.part(len(written))
            case "unicode":
                top.part(_CLASS_WEIGHT)
            case "assert":
                top.position(start=len(groups) == 1 and written in {"^", r"\A"} and not lines)
            case "flags":
                lines = lines or "m" in written
            case _:
                top.part(_CLASS_WEIGHT if "\\p" in written.lower() else 1)
    whole = groups[0]
    whole.branch()
    linear = len(groups) == 1 and not (whole.choice and whole.early)
    return Pattern(sum(group.weight + group.last for group in groups) + 1, linear)


def _counts(written: str) -> tuple[int, int]:
    """Most and least repetitions."""
    match written[0]:
        case "?":
            return 1, 0
        case "*":
            return UNBOUNDED, 0
        case "+":
            return UNBOUNDED, 1
        case _:
            least, comma, most = written.rstrip("?").strip("{}").partition(",")
            if not comma:
                return int(least[:6]), int(least[:6])
            return (int(most[:6]) if most else UNBOUNDED), int(least[:6])
