"""Blocks of whole records of CSV files, and how those are written down."""

import json
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nvisy_connectors.object.folder import ObjectInfo, Torn
from nvisy_connectors.object.formats.csv_dialect import Dialect
from nvisy_connectors.object.formats.csv_scan import Indexes

_LF, _CR = 10, 13


@dataclass(frozen=True)
class Layout:
    """How one file is written down."""

    dialect: Dialect
    names: tuple[str, ...]
    """Its columns, in its order, no name twice."""

    def to_json(self) -> dict[str, object]:
        """What JSON keeps of it."""
        marks = self.dialect
        return {
            "delimiter": marks.delimiter,
            "quote": marks.quote,
            "escape": marks.escape,
            "escape_bare": marks.escape_bare,
            "encoding": marks.encoding,
            "columns": list(self.names),
        }

    @classmethod
    def from_json(cls, told: dict[str, object]) -> "Layout":
        """What JSON kept."""
        marks = {name: value for name, value in told.items() if name != "columns"}
        return cls(Dialect(**marks), tuple(told["columns"]))  # type: ignore[arg-type]

    @cached_property
    def text(self) -> str:
        """The same as text."""
        return json.dumps(self.to_json())


@dataclass(frozen=True)
class CsvBlock:
    """Whole records of one object."""

    info: ObjectInfo
    layout: Layout
    start: int
    """Byte at which the first record begins."""
    line: int
    """Number of the line at which it does."""
    data: bytes
    """The records as they are in the object; empty for one that was too long."""
    ends: Indexes
    """Byte after each record, within the data; all are records but blank lines."""
    line_ends: Indexes
    """Byte after each line."""
    bad: dict[int, str] = field(default_factory=dict[int, str])
    """Records that are none, with why."""
    size: int = 0
    """Bytes of the object that it covers."""
    refused: str | None = None
    """Why nothing of the object can be read."""
    refused_tag: str = "schema"
    """Of what kind that is."""
    torn: Torn | None = None
    """Why the object breaks off here, in what counts as one record; `data` is empty then."""

    @property
    def end(self) -> int:
        """Byte after the last record."""
        return self.start + self.size

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return len(self.line_ends) or 1

    @property
    def is_last(self) -> bool:
        """Whether the object ends here."""
        return self.refused is not None or self.end >= self.info.size

    @cached_property
    def starts(self) -> Indexes:
        """Where each record begins."""
        return np.concatenate([np.zeros(1, np.int64), self.ends])[: len(self.ends)]

    @cached_property
    def filled(self) -> Indexes:
        """The records that are no blank lines."""
        if not self.data:
            return np.arange(len(self.ends))
        codes = self.layout.dialect.codes(self.data)
        first = codes[np.minimum(self.starts // self.layout.dialect.width, len(codes) - 1)]
        return np.flatnonzero((first != _LF) & (first != _CR))

    @property
    def count(self) -> int:
        """How many records there are."""
        return 1 if self.refused is not None else len(self.filled)

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64]:
        """The line at which each record begins, blank ones too."""
        if len(self.ends) == len(self.line_ends):
            return np.arange(self.line, self.line + len(self.ends), dtype=np.int64)
        return self.line + np.searchsorted(self.line_ends, self.starts, "right")

    def record(self, index: int) -> bytes:
        """One record, without its line end."""
        data = self.data[int(self.starts[index]) : int(self.ends[index])]
        if self.layout.dialect.width == 1:
            return data.removesuffix(b"\n").removesuffix(b"\r")
        for mark in "\n\r":
            data = data.removesuffix(mark.encode(self.layout.dialect.encoding))
        return data
