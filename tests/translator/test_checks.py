"""Asset checks of nodes that check records."""

import json
from pathlib import Path

import dagster as dg
import pytest

from nvisy_dagster.translator.checks import CHECK
from nvisy_dagster.translator.definitions import build_definitions

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
KEY = dg.AssetKey(["shop", "check"])
RULES = [{"name": "positive", "check": "n > 0"}, {"name": "small", "check": "n < 90"}]


@pytest.fixture
def shop(tmp_path):
    """Definitions of a graph that checks a hundred numbers, all of them made anew."""

    def build(first: int = -5, **check) -> dg.Definitions:
        lines = (json.dumps({"n": n}) for n in range(first, first + 100))
        (tmp_path / "numbers.jsonl").write_text("\n".join(lines))
        source = {"path": "numbers.jsonl", "format": "jsonl", "columns": {"n": "int64"}}
        graph = {
            "name": "shop",
            "nodes": [
                {"id": "numbers", "type": "source", "connector": "local", "params": source},
                {
                    "id": "check",
                    "type": "action",
                    "action": "validate",
                    "params": {"rules": RULES},
                    "on_error": "dead_letter",
                    **check,
                },
                {"id": "out", "type": "sink", "connector": "local", "params": {"path": "out"}},
            ],
            "edges": [{"from": "numbers", "to": "check"}, {"from": "check", "to": "out"}],
        }
        (tmp_path / "shop.json").write_text(json.dumps(graph))
        return build_definitions(tmp_path / "shop.json", storage=tmp_path / "state")

    return build


def run(definitions: dg.Definitions, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job = definitions.resolve_job_def("shop")
    return job.execute_in_process(instance=instance, run_config=QUIET)


def broken(event) -> dict[str, int]:
    """Records by the rule that they break."""
    return {one.data["what"]: one.data["records"] for one in event.metadata["broken"].records}


@pytest.mark.parametrize("materialize", [False, True])
def test_a_run_evaluates_the_check_with_counts_and_reasons(shop, instance, materialize):
    result = run(shop(materialize=materialize), instance)
    [evaluation] = result.get_asset_check_evaluations()
    assert (evaluation.asset_key, evaluation.check_name) == (KEY, CHECK)
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert evaluation.description == "11 of 100 records failed"
    assert evaluation.metadata["checked"].value == 100
    assert evaluation.metadata["failed"].value == 11
    assert evaluation.metadata["share_failed"].value == pytest.approx(0.11)
    reasons = {
        one.data["reason"]: one.data["records"] for one in evaluation.metadata["reasons"].records
    }
    assert reasons == {
        "rule 'positive': n > 0 is not true": 6,
        "rule 'small': n < 90 is not true": 5,
    }
    assert broken(evaluation) == {"rule 'positive'": 6, "rule 'small'": 5}
    [made] = [
        event.event_specific_data.materialization
        for event in result.all_events
        if event.is_step_materialization and event.asset_key == KEY
    ]
    assert broken(made) == broken(evaluation)
    # No step of its own was needed.
    assert all(CHECK not in event.step_key for event in result.all_node_events)

    again = run(shop(first=1, params={"rules": RULES[:1]}), instance)
    [evaluation] = again.get_asset_check_evaluations()
    assert evaluation.passed
    assert broken(evaluation) == {"rule 'positive'": 0}
    assert "reasons" not in evaluation.metadata


def test_records_that_are_dropped_count_as_failed(shop, instance):
    warn = {"name": "odd", "check": "n % 2 = 1 OR n IS NULL", "severity": "warn"}
    schema = {"properties": {"n": {"maximum": 80}}}
    params = {"rules": [*RULES, warn], "json_schema": schema}
    checked = run(shop(on_error="drop", params=params), instance)
    [evaluation] = checked.get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.metadata["failed"].value == 20
    assert broken(evaluation) == {
        "rule 'positive'": 6,
        "rule 'small'": 5,
        "rule 'odd', a warning": 53,
        "JSON Schema": 14,
    }


def test_a_run_that_fails_at_a_record_says_which_rules_it_broke(shop, instance):
    job = shop(on_error="fail").resolve_job_def("shop")
    result = job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)
    assert not result.success
    [evaluation] = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR
    assert evaluation.metadata["failed"].value == 11
    assert broken(evaluation) == {"rule 'positive'": 6, "rule 'small'": 5}


def test_the_check_is_listed_and_tells_again_what_the_last_run_found(shop, instance):
    definitions = shop()
    keys = definitions.resolve_asset_graph().asset_check_keys
    assert keys == {dg.AssetCheckKey(KEY, CHECK)}
    run(definitions, instance)
    [check] = definitions.asset_checks or ()
    result = dg.materialize(
        [check], instance=instance, selection=dg.AssetSelection.all_asset_checks()
    )
    [evaluation] = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.metadata["failed"].value == 11
    assert broken(evaluation) == {"rule 'positive'": 6, "rule 'small'": 5}


def test_a_graph_that_checks_nothing_has_no_check(tmp_path: Path):
    source = {"path": "a.jsonl", "format": "jsonl"}
    nodes = [
        {"id": "a", "type": "source", "connector": "local", "params": source},
        {"id": "b", "type": "sink", "connector": "local", "params": {"path": "out"}},
    ]
    graph = {"name": "plain", "nodes": nodes, "edges": [{"from": "a", "to": "b"}]}
    (tmp_path / "plain.json").write_text(json.dumps(graph))
    definitions = build_definitions(tmp_path / "plain.json", storage=tmp_path / "state")
    assert not list(definitions.asset_checks or ())
