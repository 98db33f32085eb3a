"""What a source found and could not make a record of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A place in what is read that cannot become a record.

    What becomes of it is decided by the `on_error` policy of the node.
    """

    uri: str
    """Where it was read from."""
    position: int | None
    """Its place in there: the position that its record would have had. `None` for all of it."""
    data: bytes | None
    """Its raw bytes; `None` when there are too many, or they cannot be had."""
    reason: str
    """What is wrong with it, and where exactly."""
    tag: str = "validation"
    """Machine-readable kind, as of an error."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """More about its place, such as the byte at which it begins: JSON values."""


@dataclass(frozen=True)
class Decoded:
    """What became of some records that had been rejected."""

    data: pa.RecordBatch
    """Those that could become records now, as `Source.read` would have made them: with the ids that
    they would have had."""
    rejected: Sequence[RejectedRecord] = ()
    """Those that could not: of the same `uri` and `position`."""
