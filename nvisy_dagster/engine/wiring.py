"""The channels between the nodes of a stage, and between them and its materialized outputs."""

from collections.abc import Mapping

from nvisy_dagster.compiler import Node, Output, Plan, Stage
from nvisy_dagster.engine.channel import Channel, Inlet, Outlet
from nvisy_dagster.engine.pace import SHARE


def writer_name(output: Output) -> str:
    """Name of what writes a materialized output, among the committers of its stage."""
    return f"edge:{output.name}"


def reader_name(made_by: Stage) -> str:
    """Name of what reads the outputs of an earlier stage, among the sources of a stage."""
    return f"stage:{made_by.id}"


class Wiring:
    """The channels of one stage.

    Args:
        plan: The plan.
        stage: The stage.
        channel_bytes: Bytes that one channel holds.
    """

    def __init__(self, plan: Plan, stage: Stage, channel_bytes: int) -> None:
        self._plan = plan
        self._stage = stage
        self._channel_bytes = channel_bytes
        self._patience_seconds = plan.checkpoint.interval_seconds * SHARE
        self._channels: dict[tuple[str, str], Channel] = {}

    @property
    def inputs(self) -> Mapping[str, list[Output]]:
        """What the stage reads, by the stage that made it."""
        found: dict[str, list[Output]] = {}
        for output in self._stage.inputs:
            found.setdefault(self._plan.stage_of[output.node].id, []).append(output)
        return found

    @property
    def may_cut(self) -> bool:
        """Whether barriers keep the records of one source record together.

        They do not when the stage reads from several stages behind a common one: the epochs of
        those are not the same. A node that needs all records has nothing to cut.
        """
        if any(self._plan.nodes[node].blocks for node in self._stage.nodes):
            return False
        seen: set[str] = set()
        for stage_id in self.inputs:
            behind = self._behind(self._plan.stage(stage_id))
            if seen & behind:
                return False
            seen |= behind
        return True

    def inlet(self, node: Node) -> Inlet:
        """What a node reads."""
        edges = self._plan.edges_into[node.id]
        return Inlet([self._channel(edge.output.name, node.id) for edge in edges])

    def outlet(self, output: Output) -> Outlet:
        """Where a node of the stage sends this output."""
        targets = [
            edge.target
            for edge in self._plan.edges_from[output.node]
            if edge.output == output and edge.kind == "streamed"
        ]
        if output in self._stage.outputs:
            targets.append(writer_name(output))
        return Outlet([self._channel(output.name, target) for target in targets])

    def written(self, output: Output) -> Inlet:
        """What the writer of a materialized output reads."""
        return Inlet([self._channel(output.name, writer_name(output))])

    def readers(self, output: Output) -> Outlet:
        """The nodes of the stage that read an output of an earlier stage."""
        return Outlet([
            self._channel(output.name, edge.target)
            for edge in self._plan.edges_from[output.node]
            if edge.output == output and edge.target in self._stage.nodes
        ])

    def _channel(self, output: str, target: str) -> Channel:
        key = (output, target)
        if key not in self._channels:
            self._channels[key] = Channel(self._channel_bytes, self._patience_seconds)
        return self._channels[key]

    def _behind(self, stage: Stage) -> set[str]:
        found = {stage.id}
        waiting = [stage]
        while waiting:
            for output in waiting.pop().inputs:
                before = self._plan.stage_of[output.node]
                if before.id not in found:
                    found.add(before.id)
                    waiting.append(before)
        return found
