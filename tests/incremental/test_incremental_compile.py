"""What cannot be incremental is refused when the graph compiles, with the way out."""

import incremental_toys as toys
import pytest
from incremental_worlds import graph

from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.graph.load import build_graph

LOCAL = {"connector": "local", "params": {"path": "docs"}}


def errors_of(document):
    with pytest.raises(GraphErrors) as caught:
        compile_graph(build_graph(document), registry=toys.registry())
    return [(error.path, error.message, error.remedy) for error in caught.value.errors]


def to_files(**params):
    document = graph(LOCAL)
    document["nodes"] = [
        document["nodes"][0],
        {"id": "out", "type": "sink", "connector": "local", "params": {"path": "out", **params}},
    ]
    document["edges"] = [{"from": "docs", "to": "out"}]
    return document


def test_a_sound_graph_compiles():
    plan = compile_graph(build_graph(graph(LOCAL)), registry=toys.registry())
    assert plan.nodes["docs"].incremental


def test_it_changes_the_stage_so_that_no_checkpoint_is_shared():
    document = graph(LOCAL)
    one = compile_graph(build_graph(document), registry=toys.registry())
    document["nodes"][0]["incremental"] = False
    other = compile_graph(build_graph(document), registry=toys.registry())
    assert one.stages[0].hash != other.stages[0].hash


def test_a_source_that_cannot():
    document = graph({"connector": "qdrant", "connection": "x", "params": {"collection": "other"}})
    document["nodes"] = [document["nodes"][0], document["nodes"][3]]
    document["edges"] = [{"from": "docs", "to": "index"}]
    [(path, message, remedy)] = errors_of(document)
    assert path == "$.nodes[0].incremental"
    assert "cannot tell what changed" in message
    assert 'remove "incremental"' in remedy


def test_a_sink_that_replaces_everything():
    [(path, message, remedy)] = errors_of(to_files())
    assert path == "$.nodes[1].params"
    assert "would be lost" in message
    assert "append" in remedy


def test_a_sink_that_cannot_remove():
    [(path, message, remedy)] = errors_of(to_files(mode="append"))
    assert path == "$.nodes[0].incremental"
    assert '"out" (local) cannot remove' in message
    assert '"on_removed": "ignore"' in remedy
    document = to_files(mode="append")
    document["nodes"][0]["on_removed"] = "ignore"
    compile_graph(build_graph(document), registry=toys.registry())


def test_on_removed_alone_says_nothing():
    document = graph(LOCAL)
    document["nodes"][0] |= {"incremental": False, "on_removed": "ignore"}
    [(path, _, remedy)] = errors_of(document)
    assert path == "$.nodes[0].on_removed"
    assert remedy == "remove it"
