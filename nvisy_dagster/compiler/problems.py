"""Collecting every mistake of a graph, each with its JSON path."""

from pydantic import BaseModel, ValidationError

from nvisy_dagster.graph.errors import GraphError
from nvisy_dagster.graph.explain import explain
from nvisy_dagster.graph.model import Graph
from nvisy_dagster.graph.places import Step
from nvisy_dagster.sdk import ConfigError
from nvisy_dagster.sdk.errors import mistakes_in


class Problems:
    """The mistakes found so far.

    Args:
        graph: The graph that is compiled; it knows where its author wrote what.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.errors: list[GraphError] = []

    def add(self, *steps: Step, message: str, remedy: str | None = None) -> None:
        """A mistake at this place of the graph."""
        self.errors.append(GraphError(self._graph.path(*steps), message, remedy))

    def add_invalid(self, error: ValidationError, model: type[BaseModel], *base: Step) -> None:
        """What pydantic found in the value at this place."""
        self.errors.extend(explain(error, model, self._graph.places, base))

    def add_refused(self, error: ConfigError, *base: Step) -> None:
        """What a component found wrong with the params at this place: all of it."""
        for one in mistakes_in(error):
            self.add(*base, *one.place, message=one.message, remedy=one.remedy)
