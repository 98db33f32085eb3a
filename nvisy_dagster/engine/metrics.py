"""Counts of one node, cut consistently at barriers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pyarrow as pa

from nvisy_dagster.sdk.identity import array_to_ids

PREVIEW_ROWS = 5
_ROUTE = "records_out@"
_FINDING = "found@"


@dataclass
class Counts:
    """What a node did; what came in was passed on, dropped, or is dead: see `accounting`."""

    records_in: int = 0
    """Records it took; of a source, those it read."""
    bytes_in: int = 0
    records_out: int = 0
    """Records it sent; of a sink, those it wrote."""
    bytes_out: int = 0
    records_kept: int = 0
    """Of an action: records that left a trace in what it sent."""
    dropped: int = 0
    dead: int = 0
    failed: int = 0
    """Records that the component refused: `on_error` made them `dead`, or `dropped` them."""
    superseded: int = 0
    """Dead letters of earlier runs that it closed: their records got past the node now."""
    calls: int = 0
    retries: int = 0
    found_new: int = 0
    """Source that reads only what changed: how many things, such as objects, are new since the last
    successful run; likewise the next three."""
    found_changed: int = 0
    found_removed: int = 0
    found_unchanged: int = 0
    busy_seconds: float = 0.0
    """Time spent inside the component, summed over concurrent calls."""
    retry_wait_seconds: float = 0.0
    """Time that failed calls spent before their retries; this and what follows, summed likewise."""
    breaker_wait_seconds: float = 0.0
    """Time that calls were held because their system was down."""
    rate_limit_wait_seconds: float = 0.0
    """Time that calls waited for a `rate_limit`."""
    concurrency_wait_seconds: float = 0.0
    """Time that calls waited for room: in the node, or within `max_global`."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, for checkpoints and metadata."""
        return asdict(self)

    @classmethod
    def from_json(cls, numbers: Mapping[str, float]) -> "Counts":
        """The counts of a checkpoint; what it does not know of is 0."""
        zero = cls()
        for name, kind in ((one.name, type(getattr(zero, one.name))) for one in fields(cls)):
            setattr(zero, name, kind(numbers.get(name, 0)))
        return zero


SECONDS = tuple(one.name for one in fields(Counts) if one.name.endswith("_seconds"))
"""Those of the counts that are durations."""


@dataclass
class NodeMetrics:
    """Everything told about one node of a run."""

    node: str
    kind: str
    counts: Counts = field(default_factory=Counts)
    routes: dict[str, int] = field(default_factory=dict[str, int])
    """Of a branch: records sent down each route."""
    findings: dict[str, int] = field(default_factory=dict[str, int])
    """Of an action that tells findings: records by what was found, such as the rule they break."""
    wait_in_seconds: float = 0.0
    """Time spent waiting for input."""
    wait_out_seconds: float = 0.0
    """Time spent waiting for a slower reader."""
    schema: pa.Schema | None = None
    preview: pa.RecordBatch | None = None
    """The first few records that it sent, or took if it is a sink."""

    def took(self, batch: pa.RecordBatch) -> None:
        """Count a batch that came in."""
        self.counts.records_in += batch.num_rows
        self.counts.bytes_in += batch.nbytes
        if self.kind == "sink":
            self._show(batch)

    @classmethod
    def from_json(cls, node: str, kind: str, numbers: Mapping[str, float]) -> "NodeMetrics":
        """A node as of a checkpoint."""
        routes, findings = _named(numbers, _ROUTE), _named(numbers, _FINDING)
        return cls(node, kind, Counts.from_json(numbers), routes, findings)

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        named = {_ROUTE + name: rows for name, rows in self.routes.items()}
        named |= {_FINDING + name: rows for name, rows in self.findings.items()}
        return self.counts.to_json() | named

    def sent(self, batch: pa.RecordBatch, route: str | None = None) -> None:
        """Count a batch that went out."""
        if route is not None:
            self.routes[route] = self.routes.get(route, 0) + batch.num_rows
        self.counts.records_out += batch.num_rows
        self.counts.bytes_out += batch.nbytes
        self._show(batch)

    def _show(self, batch: pa.RecordBatch) -> None:
        if self.schema is None:
            self.schema = batch.schema
        if self.preview is None and batch.num_rows:
            # A copy, so that five rows do not keep a whole batch alive.
            rows = pa.array(range(min(PREVIEW_ROWS, batch.num_rows)))
            self.preview = batch.take(rows)


def _named(numbers: Mapping[str, float], kind: str) -> dict[str, int]:
    return {
        name.removeprefix(kind): int(rows)
        for name, rows in numbers.items()
        if name.startswith(kind)
    }


def traced_rows(made: pa.RecordBatch) -> int:
    """How many records of the input left a trace in what was made of it, children adjacent."""
    if made.num_rows == 0:
        return 0
    parents = array_to_ids(made.column("_parent_ids").flatten())
    if not len(parents):
        return 0
    return 1 + int((parents[1:] != parents[:-1]).any(axis=1).sum())


def dropped_rows(before: pa.RecordBatch, after: pa.RecordBatch) -> int:
    """How many records of `before` have no trace in `after`.

    A record leaves a trace as itself (same id) or as the parent of adjacent children.
    """
    if after.num_rows == 0:
        return before.num_rows
    kept = array_to_ids(before.column("_id"))
    first = array_to_ids(after.column("_id").slice(0, 1))
    if (kept == first).all(axis=1).any():
        return before.num_rows - after.num_rows
    return before.num_rows - traced_rows(after)
