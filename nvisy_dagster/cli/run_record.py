"""What is known about a run while it goes on, and when it is over."""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nvisy_dagster.compiler import Plan
from nvisy_dagster.engine.accounting import passed_on
from nvisy_dagster.engine.metrics import Counts, NodeMetrics

State = Literal["waiting", "running", "done", "stopped", "failed"]

WINDOW_SECONDS = 5.0
"""The rate shown during a run is that of the last few seconds."""


@dataclass
class NodeRecord:
    """One node of a run, as far as it has been observed."""

    node: str
    kind: str
    component: str
    state: State = "waiting"
    counts: Counts = field(default_factory=Counts)
    findings: Mapping[str, int] = field(default_factory=dict[str, int])
    wait_in_seconds: float = 0.0
    wait_out_seconds: float = 0.0
    samples: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])
    began: float | None = None
    ended: float | None = None
    restored: int = 0
    """Records that an earlier attempt had handled already."""

    @property
    def handled(self) -> int:
        """Records that count as its progress: what a source sent, what any other took."""
        return self.counts.records_out if self.kind == "source" else self.counts.records_in

    @property
    def seconds(self) -> float:
        """How long it has been running, in this run."""
        return 0.0 if self.began is None or self.ended is None else self.ended - self.began

    @property
    def rate(self) -> float:
        """Records per second over this run."""
        return (self.handled - self.restored) / self.seconds if self.seconds > 0 else 0.0

    @property
    def current_rate(self) -> float:
        """Records per second over the last few seconds."""
        if len(self.samples) < 2:  # noqa: PLR2004 - a rate needs two points
            return 0.0
        (start, before), (end, now) = self.samples[0], self.samples[-1]
        return (now - before) / (end - start) if end > start else 0.0

    def observe(self, metrics: NodeMetrics, now: float) -> None:
        """Take note of what the engine counted until now."""
        self.counts = metrics.counts
        self.findings = metrics.findings
        self.wait_in_seconds = metrics.wait_in_seconds
        self.wait_out_seconds = metrics.wait_out_seconds
        if self.began is None:
            self.began, self.restored, self.state = now, self.handled, "running"
        self.ended = now
        if self.samples and self.handled < self.samples[-1][1]:
            # Another attempt began, at its checkpoint.
            self.samples.clear()
            self.restored = min(self.restored, self.handled)
        self.samples.append((now, self.handled))
        while now - self.samples[0][0] > WINDOW_SECONDS:
            self.samples.popleft()

    def to_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "id": self.node,
            "kind": self.kind,
            "component": self.component,
            "state": self.state,
            **self.counts.to_json(),
            "records_kept": passed_on(self),
            "seconds": self.seconds,
            "records_per_second": self.rate,
            "wait_in_seconds": self.wait_in_seconds,
            "wait_out_seconds": self.wait_out_seconds,
            "findings": dict(self.findings),
        }


class RunRecord:
    """The nodes of one run, in the order of the plan. Safe to observe from any thread.

    Args:
        plan: What is run.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.began = time.monotonic()
        self.stopping = False
        """Whether the run was asked to stop."""
        self.nodes: Mapping[str, NodeRecord] = {
            node: NodeRecord(node, plan.nodes[node].kind, plan.nodes[node].component_name)
            for stage in plan.stages
            for node in stage.nodes
        }
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """How long the run has taken until now."""
        return time.monotonic() - self.began

    def observe(self, metrics: Sequence[NodeMetrics]) -> None:
        """Take note of the nodes of the running stage; earlier stages are done."""
        now = time.monotonic()
        with self._lock:
            running = {one.node for one in metrics}
            for node in self.nodes.values():
                if node.state == "running" and node.node not in running:
                    node.state = "done"
            for one in metrics:
                self.nodes[one.node].observe(one, now)

    def succeed(self, metrics: Sequence[NodeMetrics]) -> None:
        """The run is over; these are its last counts, of stages it did not have to run too."""
        with self._lock:
            for one in metrics:
                self.nodes[one.node].counts = one.counts
                self.nodes[one.node].findings = one.findings
            for node in self.nodes.values():
                node.state = "done"

    def fail(self, failed: str | None) -> None:
        """The run is over because this node failed, or because it was stopped."""
        with self._lock:
            stages = self.plan.stage_of
            for node in self.nodes.values():
                if node.node == failed:
                    node.state = "failed"
                elif node.state == "running":
                    # A stage may fail before it is observed; those before it are done.
                    done = failed is not None and stages[node.node] is not stages[failed]
                    node.state = "done" if done else "stopped"
