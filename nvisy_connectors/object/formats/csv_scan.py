"""Where the records of a CSV file end: quotes are followed, many records at a time.

A quote opens a field only where the field begins; elsewhere in a bare field it is a letter. A
quoted field ends at the next quote that is not doubled, and after it the field must end. Where that
does not hold, or a record that spans lines has not as many fields as the others, a quote is
missing somewhere: the record is then taken to end at the first line end after which a sound record
follows, so that a missing quote costs one record.
"""

from bisect import bisect_left, bisect_right
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nvisy_connectors.object.formats.csv_dialect import Dialect
from nvisy_connectors.object.formats.csv_marks import Codes, Indexes, find, unescaped

MAX_RECORD_UNITS = 64 << 20
"""Longest record; what is longer cannot be put together."""

MAX_PROBES = 1000
"""Line ends that are tried as the end of a record with a quote missing."""

JUNK = "a quote in it is closed where the field goes on"
UNCLOSED = "a quote in it is not closed"
TOO_LONG = f"it is longer than {MAX_RECORD_UNITS} characters"

_LF, _CR = 10, 13


@dataclass
class Cut:
    """Records from the beginning of some text on."""

    ends: list[Indexes] = field(default_factory=list[Indexes])
    """Where each record ends, its line end included, in pieces."""
    count: int = 0
    bad: dict[int, str] = field(default_factory=dict[int, str])
    """Records that are none, by index, with why."""

    def add(self, ends: Indexes) -> None:
        """Some records that follow."""
        if len(ends):
            self.ends.append(ends)
            self.count += len(ends)

    @property
    def last(self) -> int:
        """Where the records end."""
        return int(self.ends[-1][-1]) if self.ends else 0

    def all(self) -> Indexes:
        """Where each record ends."""
        return np.concatenate(self.ends) if self.ends else np.zeros(0, np.int64)


class _LaterError(Exception):
    """What follows must be known first."""


class Text:
    """Some text that begins with a record.

    Args:
        codes: Its units.
        dialect: How it is written down.
        last: Whether nothing follows it.
        fields: How many fields a record has, if that is known.
    """

    def __init__(self, codes: Codes, dialect: Dialect, *, last: bool, fields: int | None) -> None:
        self._codes = codes
        self._dialect = dialect
        self._last = last
        self._fields = fields
        self._doubt = UNCLOSED
        self._unsound = range(0)
        """Line ends that no sound record follows, as far as that was looked at."""
        self._quotes = self._unescaped(self._find(dialect.quote))
        self.line_ends = self._line_ends()

    def records(self) -> Cut:
        """All records that end here."""
        cut = Cut()
        if not len(self._quotes):
            cut.add(self.line_ends)
        else:
            self._follow_quotes(cut)
        if self._last and cut.last < len(self._codes):
            start = cut.last
            cut.add(np.array([len(self._codes)], np.int64))
            if len(self._quotes) and self._walk(start) is None:
                cut.bad[cut.count - 1] = self._doubt
        ends = cut.all()
        for index in np.flatnonzero(np.diff(ends, prepend=0) > MAX_RECORD_UNITS).tolist():
            cut.bad[index] = TOO_LONG
        return cut

    def fields_of(self, ends: Indexes) -> list[int | None]:
        """How many fields each of some records has, the first ones; `None` for one that is none."""
        walks = [self._walk(start) for start in [0, *ends.tolist()][: len(ends)]]
        return [
            walk[1] if walk is not None and walk[0] == end else None
            for walk, end in zip(walks, ends.tolist(), strict=True)
        ]

    def fields_from(self, start: int) -> int:
        """How many fields the record has that begins at some place, 0 if it is none."""
        found = self._walk(start)
        return found[1] if found is not None else 0

    # Where the marks are.

    def _find(self, mark: str | None) -> Indexes:
        if not mark:
            return np.zeros(0, np.int64)
        return find(self._codes, ord(mark))

    def _line_ends(self) -> Indexes:
        """After each line end: a newline, or a carriage return that no newline follows."""
        codes = self._codes
        ends = self._bare(find(codes, _LF))
        returns = find(codes, _CR)
        if len(returns) and returns[-1] == len(codes) - 1 and not self._last:
            returns = returns[:-1]
        if len(returns):
            following = codes[np.minimum(returns + 1, len(codes) - 1)]
            returns = self._bare(returns[following != _LF])
        if len(returns):
            ends = np.sort(np.concatenate([ends, returns]))
        return ends + 1

    def _bare(self, places: Indexes) -> Indexes:
        """Those of some marks that count outside of quotes."""
        return self._unescaped(places) if self._dialect.escape_bare else places

    def _unescaped(self, places: Indexes) -> Indexes:
        return unescaped(self._codes, places, self._dialect.escape)

    @cached_property
    def _delimiters(self) -> Indexes:
        return self._bare(self._find(self._dialect.delimiter))

    @cached_property
    def _rank(self) -> Indexes:
        """How many quotes come before each line end."""
        return np.searchsorted(self._quotes, self.line_ends)

    @cached_property
    def _adjacent(self) -> npt.NDArray[np.bool_]:
        """Whether a quote follows the one before at once."""
        return np.diff(self._quotes, prepend=-2) == 1

    @cached_property
    def _opens(self) -> npt.NDArray[np.bool_]:
        """Whether a field may begin with the quote."""
        before = self._codes[np.maximum(self._quotes - 1, 0)]
        return self._is_seam(before) | (self._quotes == 0)

    @cached_property
    def _closes(self) -> npt.NDArray[np.bool_]:
        """Whether a field may end with the quote."""
        size = len(self._codes)
        after = self._codes[np.minimum(self._quotes + 1, size - 1)]
        return self._is_seam(after) | (self._quotes == size - 1)

    def _is_seam(self, codes: Codes) -> npt.NDArray[np.bool_]:
        return (codes == ord(self._dialect.delimiter)) | (codes == _LF) | (codes == _CR)

    @cached_property
    def _events(self) -> tuple[list[int], list[int]]:
        """Quotes that are not where they should be, when the first one opens or closes a field."""
        next_adjacent = np.append(self._adjacent[1:], False)
        opening = np.flatnonzero(~(self._opens | self._adjacent))
        closing = np.flatnonzero(~(self._closes | next_adjacent))
        first, second = (
            np.sort(np.concatenate([opening[opening % 2 == r], closing[closing % 2 != r]])).tolist()
            for r in (0, 1)
        )
        return first, second

    # Records.

    def _follow_quotes(self, cut: Cut) -> None:
        rank = at = 0  # the first quote and the first line end that come next
        with suppress(_LaterError):
            while rank <= len(self._quotes):
                rank, at = self._step(cut, rank, at)

    def _step(self, cut: Cut, rank: int, at: int) -> tuple[int, int]:
        """Take records until something is out of place; tells where to go on."""
        events = self._events[rank % 2]
        place = bisect_left(events, rank)
        event = events[place] if place < len(events) else len(self._quotes)
        before = int(np.searchsorted(self._rank, event, "right"))
        doubtful = self._take(cut, rank, at, before)
        if doubtful is not None:
            return doubtful
        if event < len(self._quotes):
            if (event - rank) % 2:
                return self._recover(cut, JUNK)
            return self._after_letters(event), before
        if (len(self._quotes) - rank) % 2 and (self._last or self._is_late(cut.last)):
            return self._recover(cut, UNCLOSED)
        raise _LaterError

    def _take(self, cut: Cut, rank: int, at: int, before: int) -> tuple[int, int] | None:
        """Take whole records, up to one that is doubtful; tells where to go on after that."""
        outside = np.flatnonzero((self._rank[at:before] - rank) % 2 == 0) + at
        spanning = np.flatnonzero(np.diff(outside, prepend=at - 1) > 1)
        taken = 0
        for index in spanning.tolist():
            start = int(self.line_ends[outside[index - 1]]) if index else cut.last
            end = int(self.line_ends[outside[index]])
            if self._is_sound(start, end):
                continue
            cut.add(self.line_ends[outside[taken:index]])
            taken = index
            reason = UNCLOSED if end - start <= MAX_RECORD_UNITS else TOO_LONG
            place = self._place_of_end(start, end)
            if place is not None:
                return self._end_bad(cut, place, reason)
            # As a whole it has too many fields, or too few: that is told later.
        cut.add(self.line_ends[outside[taken:]])
        return None

    def _is_sound(self, start: int, end: int) -> bool:
        """Whether a record that spans lines may be one."""
        if end - start > MAX_RECORD_UNITS:
            return False
        if self._fields is None:
            return True
        found = self._walk(start)
        return found is not None and found[1] == self._fields

    def _after_letters(self, quote: int) -> int:
        after = quote + 1
        while after < len(self._quotes) and self._adjacent[after]:
            after += 1
        return after

    def _recover(self, cut: Cut, reason: str) -> tuple[int, int]:
        """End the next record, which is none, where a sound one follows, or at its first line end.

        Raises:
            _LaterError: That depends on what follows.
        """
        self._doubt = reason
        place = self._place_of_end(cut.last, None)
        if place is None:
            place = bisect_right(self.line_ends, cut.last)
            if place == len(self.line_ends):
                raise _LaterError
        return self._end_bad(cut, place, reason)

    def _end_bad(self, cut: Cut, place: int, reason: str) -> tuple[int, int]:
        cut.add(self.line_ends[place : place + 1])
        cut.bad[cut.count - 1] = reason
        return int(self._rank[place]), place + 1

    def _place_of_end(self, start: int, before: int | None) -> int | None:
        """The first line end of a record, and before some place, that a sound record follows."""
        first = bisect_right(self.line_ends, start)
        decides = self._last or self._is_late(start)
        if not self._unsound.start <= first <= self._unsound.stop:
            self._unsound = range(first, first)
        for place in range(self._unsound.stop, first + MAX_PROBES):
            # None is looked at twice, even where all records are bad.
            self._unsound = range(self._unsound.start, place)
            if place == len(self.line_ends):
                if decides:
                    return None
                raise _LaterError
            end = int(self.line_ends[place])
            if before is not None and end >= before:
                return None
            if end == len(self._codes) and self._last:
                return place
            if self._is_followed(end, decides=decides):
                return place
        return None

    def _is_followed(self, end: int, *, decides: bool) -> bool:
        """Whether a sound record begins at some place."""
        try:
            found = self._walk(end)
        except _LaterError:
            if not decides:
                raise
            return False
        return found is not None and found[1] == (self._fields or found[1])

    def _is_late(self, start: int) -> bool:
        return len(self._codes) - start > MAX_RECORD_UNITS

    def _walk(self, start: int) -> tuple[int, int] | None:
        """The end of a sound record and its number of fields; `None` if it is none.

        Raises:
            _LaterError: It does not end here.
        """
        quotes, ends = self._quotes, self.line_ends
        at = bisect_right(ends, start)
        rank = int(np.searchsorted(quotes, start))
        fields, place = 1, start
        while True:
            at += int(np.searchsorted(ends[at : at + 64], place, "right"))
            if at < len(ends) and ends[at] <= place:
                continue
            if at == len(ends) and not self._last:
                raise _LaterError
            end = int(ends[at]) if at < len(ends) else len(self._codes)
            if rank == len(quotes) or quotes[rank] >= end:
                return end, fields + self._delimiters_in(place, end)
            if not self._opens[rank]:
                rank = self._after_letters(rank)
                continue
            opening, close = int(quotes[rank]), self._closing(rank + 1)
            if close is None and not self._last:
                raise _LaterError
            if close is None or not self._closes[close]:
                return None
            fields += self._delimiters_in(place, opening)
            place, rank = int(quotes[close]) + 1, close + 1

    def _closing(self, rank: int) -> int | None:
        """The first quote that is not doubled."""
        while rank < len(self._quotes):
            if rank + 1 == len(self._quotes) or not self._adjacent[rank + 1]:
                return rank
            rank += 2
        return None

    def _delimiters_in(self, start: int, end: int) -> int:
        first, last = np.searchsorted(self._delimiters, (start, end))
        return int(last - first)
