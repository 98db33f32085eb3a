"""How many dead letters of each node are open, for its asset to show."""

from collections import Counter
from collections.abc import Mapping

import dagster as dg

from nvisy_dagster.engine.dead_letter_box import DeadLetterBox
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.sdk import NvisyError
from nvisy_dagster.translator.runtime import Runtime


class OpenLetterCounts:
    """The open letters of a graph as of now, by node; none if that cannot be read.

    Args:
        runtime: What is known of the graph.
    """

    def __init__(self, runtime: Runtime) -> None:
        try:
            letters = DeadLetterBox(runtime.storage, runtime.plan.name).letters()
        except (NvisyError, OSError):
            # A fact beside the run: it must not fail for it.
            self._open: Mapping[str, int] | None = None
        else:
            self._open = Counter(letters["node"].to_pylist())

    def metadata(self, metrics: NodeMetrics) -> dict[str, dg.MetadataValue]:
        """What a node's asset shows of them: nothing, if it never had any."""
        if self._open is None:
            return {}
        count = self._open.get(metrics.node, 0)
        if not (count or metrics.counts.dead or metrics.counts.superseded):
            return {}
        return {"open_dead_letters": dg.MetadataValue.int(count)}
