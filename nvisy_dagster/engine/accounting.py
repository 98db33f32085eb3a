"""Counts that add up: before a checkpoint covers an epoch, every record in it is accounted for.

Of each node, what came in is what was passed on (or written), dropped, or is dead. Over each edge,
what the readers took is what was sent to them. The numbers are counted apart from each other: what
comes in where it is taken, what goes out where it is sent, what is refused where it is refused,
what a sink wrote where it answers, and what is kept between stages where its file is closed.

They are cut at barriers like the data, so they add up at every checkpoint, and over every attempt
of a run: an epoch that is done again is counted again from where the checkpoint left its counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from nvisy_dagster.compiler import Output, Plan, Stage
from nvisy_dagster.engine.checkpoint import Checkpoint
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.materialized import Manifest, read_upto
from nvisy_dagster.engine.metrics import Counts, NodeMetrics
from nvisy_dagster.engine.wiring import reader_name, writer_name

_REMEDY = (
    "this is a bug in the node's component or in the engine; report it with the run's log. The "
    "checkpoint does not cover these records: the next run does them again"
)


class Counted(Protocol):
    """What has counts, of a node of some kind."""

    kind: str
    counts: Counts


_WORDS = {"source": ("read", "sent"), "sink": ("in", "written")}


class Accounts:
    """Checks the counts of one stage.

    Args:
        plan: The plan.
        stage: The stage.
        inputs: Manifests of the materialized outputs that it reads, by name.
    """

    def __init__(self, plan: Plan, stage: Stage, inputs: Mapping[str, Manifest]) -> None:
        self._plan = plan
        self._stage = stage
        self._inputs = inputs

    def check(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint whose counts do not add up.

        Raises:
            NodeError: With tag `bug`; it names the node and the numbers.
        """
        nodes = {
            node: NodeMetrics.from_json(
                node, self._plan.nodes[node].kind, checkpoint.counts.get(node, {})
            )
            for node in self._stage.nodes
        }
        for metrics in nodes.values():
            _within(checkpoint, metrics)
            self._over_edges(checkpoint, metrics, nodes)
        for output in self._stage.outputs:
            sent = self._sent(checkpoint, output, nodes)
            kept = sum(part.rows for part in checkpoint.parts.get(writer_name(output), ()))
            if sent != kept:
                raise _wrong(
                    checkpoint, output.node, f"it sent {sent:,} records, {kept:,} of them are kept"
                )

    def _over_edges(
        self, checkpoint: Checkpoint, metrics: NodeMetrics, nodes: Mapping[str, NodeMetrics]
    ) -> None:
        if metrics.kind == "source":
            return
        edges = self._plan.edges_into[metrics.node]
        # One output may lead to two inputs.
        sent = [(e.output.name, self._sent(checkpoint, e.output, nodes)) for e in edges]
        took = metrics.counts.records_in
        if sum(rows for _, rows in sent) != took:
            senders = " and ".join(f"{name} sent it {rows:,}" for name, rows in sent)
            raise _wrong(checkpoint, metrics.node, f"it took {took:,} records, but {senders}")

    def _sent(
        self, checkpoint: Checkpoint, output: Output, nodes: Mapping[str, NodeMetrics]
    ) -> int:
        """Records that were sent down an output, up to where the stage has read it."""
        if output.node not in nodes:
            return self._read(checkpoint, output)
        if output.route is None:
            return nodes[output.node].counts.records_out
        return nodes[output.node].routes.get(output.route, 0)

    def _read(self, checkpoint: Checkpoint, output: Output) -> int:
        position = checkpoint.sources[reader_name(self._plan.stage_of[output.node])]
        parts = self._inputs[output.name].parts
        if position.done and position.cursor is None:
            return sum(part.rows for part in parts)
        epoch, further = read_upto(position.cursor)
        return sum(p.rows for p in parts if p.epoch <= epoch) + further.get(output.name, 0)


def _within(checkpoint: Checkpoint, metrics: NodeMetrics) -> None:
    counts = metrics.counts
    terms = (counts.records_in, passed_on(metrics), counts.dropped, counts.dead)
    if terms[0] != sum(terms[1:]) or min(terms) < 0:
        came, *went = _terms(metrics)
        raise _wrong(checkpoint, metrics.node, f"{came}, but {', '.join(went)}")
    if metrics.routes and sum(metrics.routes.values()) != counts.records_out:
        routes = ", ".join(f"{rows:,} down {name}" for name, rows in metrics.routes.items())
        raise _wrong(checkpoint, metrics.node, f"it sent {counts.records_out:,}, but {routes}")


def passed_on(metrics: Counted) -> int:
    """How many of the records that came in were sent on or written.

    Of an action, those that left a trace in what it sent: it may make many of one.
    """
    counts = metrics.counts
    return counts.records_kept if metrics.kind == "action" else counts.records_out


def sum_in_words(metrics: Counted) -> str:
    """What came in and what became of it, as one sum."""
    came, *went = _terms(metrics)
    return f"{came} = {' + '.join(went)}"


def totals(metrics: Iterable[Counted]) -> dict[str, int]:
    """Of a whole graph: records read by sources, written by sinks, dropped and dead anywhere."""
    found = {"read": 0, "written": 0, "dropped": 0, "dead": 0}
    for node in metrics:
        found["read"] += node.counts.records_in if node.kind == "source" else 0
        found["written"] += node.counts.records_out if node.kind == "sink" else 0
        found["dropped"] += node.counts.dropped
        found["dead"] += node.counts.dead
    return found


def _terms(metrics: Counted) -> Sequence[str]:
    counts = metrics.counts
    came, went = _WORDS.get(metrics.kind, ("in", "passed on"))
    return (
        f"{counts.records_in:,} {came}",
        f"{passed_on(metrics):,} {went}",
        f"{counts.dropped:,} dropped",
        f"{counts.dead:,} dead",
    )


def _wrong(checkpoint: Checkpoint, node: str, numbers: str) -> NodeError:
    message = f"its counts do not add up at epoch {checkpoint.epoch}: {numbers}"
    return NodeError(node, message, retryable=False, remedy=_REMEDY, tag="bug")
