"""Tags: labels of anyone's, and what a graph may ask of Dagster for its runs."""

import re
from typing import Any

import pytest

from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.graph.json_schema import graph_schema
from nvisy_dagster.graph.load import build_graph

OWN = "dagster/max_retries, dagster/retry_strategy, dagster/priority, dagster/max_runtime"


def document(node: dict[str, str] | None = None, **tags: str) -> dict[str, Any]:
    nodes = [{"id": "a", "type": "source", "connector": "c", "tags": node or {}}]
    return {"name": "g", "nodes": nodes, "tags": tags}


def test_a_graph_asks_dagster_for_retries_priority_and_time() -> None:
    tags = {
        "team": "sales",
        "dagster/max_retries": "3",
        "dagster/retry_strategy": "ALL_STEPS",
        "dagster/priority": "-2",
        "dagster/max_runtime": "3600",
    }
    assert build_graph(document(**tags)).tags == tags


@pytest.mark.parametrize(
    ("tags", "path", "message", "remedy"),
    [
        (
            {"dagster/max_retry": "3"},
            "$.tags['dagster/max_retry']",
            'a graph cannot set "dagster/max_retry": Dagster keeps it for itself',
            'did you mean "dagster/max_retries"?',
        ),
        (
            {"dagster/solid_selection": "x"},
            "$.tags['dagster/solid_selection']",
            'a graph cannot set "dagster/solid_selection": Dagster keeps it for itself',
            f"it may set {OWN}",
        ),
        (
            {"dagster/max_retries": "often"},
            "$.tags['dagster/max_retries']",
            '"often" is no value of dagster/max_retries',
            'give it a whole number such as "3"',
        ),
        (
            {"dagster/retry_strategy": "from_failure"},
            "$.tags['dagster/retry_strategy']",
            '"from_failure" is no value of dagster/retry_strategy',
            'give it "FROM_FAILURE" or "ALL_STEPS"',
        ),
        (
            {"team/x": "sales"},
            "$.tags['team/x']",
            '"team/x" is not allowed',
            "use letters, digits, _, - and ., at most 63 of them",
        ),
    ],
)
def test_what_it_cannot_ask(tags: dict[str, str], path: str, message: str, remedy: str) -> None:
    with pytest.raises(GraphErrors) as caught:
        build_graph(document(**tags))
    (error,) = caught.value.errors
    assert (error.path, error.message, error.remedy) == (path, message, remedy)


def test_a_node_has_no_runs() -> None:
    with pytest.raises(GraphErrors) as caught:
        build_graph(document({"dagster/max_retries": "3"}))
    (error,) = caught.value.errors
    assert error.path == "$.nodes[0].tags['dagster/max_retries']"
    assert error.remedy == "move it to the tags of the graph"


def test_the_schema_knows_them() -> None:
    (pattern,) = graph_schema()["properties"]["tags"]["patternProperties"]
    assert all(re.search(pattern, tag) for tag in ("team", *OWN.split(", ")))
    assert not re.search(pattern, "dagster/run_key")
