"""Who in a stage still wants records: what nobody wants is neither read nor worked on.

A node that has enough of them, such as a `limit`, wants none any more. Then neither does a node
whose every reader wants none, up to the sources, whose reads are ended as if all were read. What is
under way between them is taken and dropped.
"""

from nvisy_dagster.compiler import Plan, Stage
from nvisy_dagster.engine.drain import Reads
from nvisy_dagster.engine.wiring import reader_name


class Demand:
    """What is wanted in one stage.

    Args:
        plan: The plan.
        stage: The stage.
        reads: The reads of its sources.
    """

    def __init__(self, plan: Plan, stage: Stage, reads: Reads) -> None:
        self._reads = reads
        self._kept = {output.node for output in stage.outputs}
        self._readers: dict[str, set[str]] = {node: set() for node in stage.nodes}
        """Who reads what a node of the stage, or an earlier stage, made."""
        for edge in plan.edges:
            if edge.target in self._readers:
                before = edge.output.node
                if edge.kind == "materialized":
                    before = reader_name(plan.stage_of[before])
                self._readers.setdefault(before, set()).add(edge.target)
        earlier = [name for name in self._readers if name not in stage.nodes]
        self._order = [*reversed(stage.nodes), *earlier]
        """Readers before what they read."""
        self._sources = {*earlier, *(n for n in stage.nodes if plan.nodes[n].kind == "source")}
        self._have_enough: set[str] = set()
        self._unwanted: set[str] = set()

    def wants(self, node: str) -> bool:
        """Whether anybody wants what the node makes."""
        return node not in self._unwanted

    def has_enough(self, node: str) -> None:
        """The node lets no further record through."""
        self._have_enough.add(node)
        for name in self._order:
            readers = self._readers[name]
            closed = self._unwanted | self._have_enough
            if readers and name not in self._kept and readers <= closed:
                self._unwanted.add(name)
        for name in self._unwanted & self._sources:
            self._reads.end(name)
