"""What sources may leave out, because the actions right behind them do not want it.

Only within a stage: what a source reads for another one is kept, and may be read under other
actions. Only along a single line of actions: what one consumer does not want, another may. And only
where nobody sees the difference but in how much was read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from nvisy_dagster.compiler.plan import Node, Plan
from nvisy_dagster.sdk import Action, Component, SequentialAction
from nvisy_dagster.sdk.push_down import NO_HINT, AllOf, Condition, Hint, Wanted, compares, folded


def with_hints(plan: Plan) -> Plan:
    """The plan, its sources told what they may leave out."""
    hints = {
        node.id: hint
        for node in plan.nodes.values()
        if node.kind == "source" and (hint := _hint(plan, node))
    }
    if not hints:
        return plan
    nodes = {
        node_id: replace(node, hint=hints[node_id]) if node_id in hints else node
        for node_id, node in plan.nodes.items()
    }
    return replace(plan, nodes=nodes)


def _hint(plan: Plan, source: Node) -> Hint:
    # An incremental read takes records that are not there any more for removed.
    if source.incremental:
        return NO_HINT
    line = _Line()
    for node in _behind(plan, source):
        wanted = _wanted(node.build())
        if wanted is None or not line.go_on(wanted, keeps_letters=_keeps_letters(node)):
            break
    limit = source.policies.error_limit
    # A share is one of all that was read.
    counts = limit is not None and limit.share is not None
    return line.hint(prunes=not counts)


def _wanted(component: Component[Any]) -> Wanted | None:
    if isinstance(component, SequentialAction):
        # It passes all columns on. Records that it goes by are wanted, whoever is behind it.
        return Wanted(frozenset(), fails=component.drops)
    return component.wanted() if isinstance(component, Action) else None


def _behind(plan: Plan, source: Node) -> Iterator[Node]:
    """The nodes behind a source as long as there is one, which has no other input."""
    node = source
    while len(edges := plan.edges_from[node.id]) == 1:
        edge = edges[0]
        if edge.kind != "streamed" or len(plan.edges_into[edge.target]) != 1:
            return
        node = plan.nodes[edge.target]
        yield node


def _keeps_letters(node: Node) -> bool:
    return node.policies.on_error == "dead_letter"


@dataclass
class _Line:
    """What the actions so far want."""

    reads: set[str] = field(default_factory=set[str])
    replaced: set[str] = field(default_factory=set[str])
    made: set[str] = field(default_factory=set[str])
    conditions: list[Condition] = field(default_factory=list[Condition])
    prunes: bool = True
    """Whether all so far fail on no record and leave the columns as they are."""
    complete: bool = False
    """Whether no other columns are wanted."""

    def go_on(self, wanted: Wanted, *, keeps_letters: bool) -> bool:
        """Add an action; whether what is behind it may add something."""
        if self.prunes and wanted.keeps is not None and any(compares(wanted.keeps)):
            self.conditions.append(wanted.keeps)
        unchanged = not (wanted.renames or wanted.replaces)
        self.prunes = self.prunes and not wanted.fails and unchanged
        if not self.complete:
            if wanted.fails and keeps_letters:
                return False  # the letters hold all that came in
            self.reads |= {name for name in wanted.reads if folded(name) not in self.made}
            self.replaced |= wanted.replaces
            self.made |= set(map(folded, wanted.replaces))
            self.complete = not wanted.passes
        return not wanted.renames

    def hint(self, *, prunes: bool) -> Hint:
        """What may be left out."""
        where: Condition | None = None
        if prunes and self.conditions:
            [first, *more] = self.conditions
            where = AllOf((first, *more)) if more else first
        if not self.complete:
            return Hint(where=where)
        return Hint(frozenset(self.reads), frozenset(self.replaced), where)
