"""What an edge carries, as far as it is known before the run."""

from dataclasses import dataclass

import pyarrow as pa

PRIMITIVES = (
    "document",
    "chunk",
    "row",
    "blob",
    "embedding",
    "completion",
    "structured_output",
    "tool_call_trace",
    "image",
    "audio",
    "fine_tune_sample",
    "raw",
)
"""Names of the kinds of record, in the order of the reference pages."""


@dataclass(frozen=True)
class EdgeType:
    """The primitive on an edge and, where it can be known before the run, its Arrow schema."""

    primitive: str
    schema: pa.Schema | None = None
    """Envelope and payload columns; `None` when only reading the data will tell."""

    def __post_init__(self) -> None:
        if self.primitive not in PRIMITIVES:
            raise ValueError(f"unknown primitive {self.primitive!r}")
