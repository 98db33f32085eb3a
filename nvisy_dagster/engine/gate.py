"""What all calls to one system go through: its breaker, its retry budget, its rate limits."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nvisy_dagster.compiler import Node, Plan
from nvisy_dagster.engine.breaker import Breaker
from nvisy_dagster.engine.rate_limit import RateLimiter
from nvisy_dagster.engine.retry_budget import RetryBudget


@dataclass(frozen=True)
class Gate:
    """What a node's calls go through."""

    breaker: Breaker = field(default_factory=Breaker)
    budget: RetryBudget = field(default_factory=RetryBudget)
    limiters: Sequence[RateLimiter] = ()
    """The node's own rate limit and its connection's."""


class Gates:
    """The gates of a run: the nodes of one connection share theirs, any other has its own.

    A stage that runs in a process of its own has gates of its own.

    Args:
        plan: The plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._shared: dict[tuple[str, str], Gate] = {}
        self._gates: dict[str, Gate] = {}

    def of(self, node: Node) -> Gate:
        """The gate of a node."""
        if node.id not in self._gates:
            self._gates[node.id] = self._made(node)
        return self._gates[node.id]

    def _made(self, node: Node) -> Gate:
        key = ("node", node.id) if node.connection is None else ("connection", node.connection)
        if key not in self._shared:
            said = self._plan.connections.get(node.connection or "")
            limit = said.rate_limit if said else None
            self._shared[key] = Gate(limiters=[RateLimiter(limit)] if limit else [])
        shared = self._shared[key]
        own = node.policies.rate_limit
        limiters = [*([RateLimiter(own)] if own else []), *shared.limiters]
        return Gate(shared.breaker, shared.budget, limiters)
