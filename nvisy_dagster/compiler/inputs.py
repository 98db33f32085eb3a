"""Which input of its node an edge leads to, where inputs have names."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from nvisy_dagster.compiler.problems import Problems
from nvisy_dagster.compiler.resolve import Resolved
from nvisy_dagster.compiler.structure import Shape
from nvisy_dagster.graph.errors import suggest
from nvisy_dagster.sdk import CombiningAction, Component

Named = Mapping[str, Mapping[str, str]]
"""For each node whose inputs have names, and all of them an edge: the node before each."""


def check_inputs(resolved: Mapping[str, Resolved], shape: Shape, problems: Problems) -> Named:
    """Find edges that lead to no input, or to one that is taken, and inputs without an edge.

    Args:
        resolved: The nodes, as far as their names are known.
        shape: The sound edges.
        problems: Where mistakes go.
    """
    taken: defaultdict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
    unsound: set[str] = set()
    for index, edge in shape.edges:
        found = resolved.get(edge.to)
        if found is None:
            continue
        names = input_names(found.component)
        wrong = _wrong(names, edge.input, found, taken[edge.to])
        if wrong is not None:
            message, remedy = wrong
            where = ("edges", index) if edge.input is None else ("edges", index, "input")
            problems.add(*where, message=message, remedy=remedy)
            unsound.add(edge.to)
        elif edge.input is not None:
            taken[edge.to][edge.input] = (index, edge.from_)
    complete: dict[str, dict[str, str]] = {}
    for node, found in resolved.items():
        names = input_names(found.component)
        missing = [name for name in names if name not in taken[node]]
        if not missing and names:
            complete[node] = {name: taken[node][name][1] for name in names}
        # What an edge that says it wrongly was meant for is told there.
        elif missing and node not in unsound and shape.predecessors[node]:
            problems.add(
                "nodes",
                found.index,
                message=f'no edge leads to {_listed(missing)} of {found.component_name} "{node}"',
                remedy=f'add an edge to it with "input": "{missing[0]}"',
            )
    return complete


def input_names(component: type[Component[Any]]) -> Sequence[str]:
    """Names of the inputs of a component; none for most."""
    return component.inputs if issubclass(component, CombiningAction) else ()


def _wrong(
    names: Sequence[str], said: str | None, node: Resolved, taken: Mapping[str, tuple[int, str]]
) -> tuple[str, str | None] | None:
    """What is wrong with the input that an edge says, and the remedy."""
    what = f'{node.component_name} "{node.node.id}"'
    if said is None:
        if not names:
            return None
        choices = " or ".join(f'"{name}"' for name in names)
        return f"an edge to {what} must name its input", f'add "input": {choices}'
    if not names:
        return f"{what} has no named inputs", "remove the input"
    if said not in names:
        message = f'{what} has no input "{said}"'
        return message, suggest(said, names) or f"valid here: {', '.join(names)}"
    if said in taken:
        free = [name for name in names if name not in taken]
        remedy = f'did you mean "{free[0]}"?' if free else 'put a "union" before it'
        return f'input "{said}" of {what} is that of edge {taken[said][0]} already', remedy
    return None


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f'input "{name}"' for name in names)
