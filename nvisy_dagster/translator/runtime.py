"""What the ops of one graph know at run time, besides what Dagster hands them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nvisy_dagster.compiler import Plan
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.stage_context import StageResult
from nvisy_dagster.graph.connections import NamedConnection

Observe = Callable[[Sequence[NodeMetrics]], None]


@dataclass(frozen=True)
class Runtime:
    """What the ops of one graph share."""

    plan: Plan
    connections: Mapping[str, NamedConnection]
    """As they are written: references become values only while a stage runs."""
    locations: Mapping[str, str]
    """Source or sink -> URI of its data."""
    storage: Path
    """Root folder of run state."""
    preview: bool = True
    """Whether records may be shown on the nodes' pages."""
    observe: Observe | None = None
    """Called a few times a second with the metrics of the running stage."""
    ended: Callable[[StageResult], None] | None = field(default=None, repr=False)
    """Called with what each stage did."""
