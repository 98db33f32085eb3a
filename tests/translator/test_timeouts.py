"""Limits of time, as Dagster's run tells them."""

from dagster_project import Project


def told(result) -> tuple[str, str]:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    return failure.description, failure.metadata["remedy"].value


def slow(project: Project, **timeout: float) -> None:
    nodes = project.graph["nodes"]
    nodes[1]["params"]["pause_seconds"] = 20
    nodes[1]["timeout"] = timeout
    retry = {"max_retries": 3, "initial_delay_seconds": 0.2}
    project.settings = {"nodes": nodes, "retry": retry}


def test_a_node_that_takes_too_long_ends_the_run_then(project: Project):
    slow(project, node_seconds=1)

    result = project.run()

    # Starting the stage again, as after what may pass, would take that long each time.
    assert not [e for e in result.all_events if e.event_type_value == "STEP_UP_FOR_RETRY"]
    description, remedy = told(result)
    assert "node 'pay': it took longer than 1 s" in description
    assert 'raise "timeout.node_seconds"' in remedy


def test_a_call_that_takes_too_long_is_told_with_what_to_do(project: Project):
    slow(project, call_seconds=0.1)
    project.settings["retry"] = {"max_retries": 0}

    description, remedy = told(project.run())

    assert "node 'pay': a call took longer than 0.1 s" in description
    assert 'raise "timeout.call_seconds"' in remedy
    assert '"concurrency.max_per_node"' in remedy
