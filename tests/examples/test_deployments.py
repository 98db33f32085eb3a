"""The examples that live inside a Dagster deployment, run by Dagster's own commands."""

import pyarrow.parquet as pq


def test_existing_deployment(run, checkout):
    folder = checkout / "examples" / "existing_deployment"
    env = {"DAGSTER_HOME": str(checkout)}
    (checkout / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    arguments = ("-f", folder / "definitions.py")
    run("dagster", "asset", "materialize", "--select", "tickets", *arguments, env=env)
    run("dagster", "job", "execute", "-j", "search_tickets", *arguments, env=env)
    graph = folder / "graphs" / "search_tickets.json"
    (folder / "graphs" / "connections.json").write_text(
        '{"vectors": {"type": "qdrant", "path": "../.nvisy/vectors"}}'
    )
    found = run("nvisy", "search", graph, "I cannot log in", "--limit", 1)
    assert "Login fails after the password was changed." in found


def test_component(run, checkout):
    project = checkout / "examples" / "component"
    env = {"DAGSTER_HOME": str(checkout), "NVISY_STORAGE": str(checkout / "state")}
    (checkout / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    job = ("-m", "newsroom.definitions", "-j", "headlines")
    run("dagster", "job", "execute", *job, cwd=project, env=env)
    [part] = (project / "out").glob("*.parquet")
    assert pq.read_table(part).to_pylist() == [
        {"headline": "Arrow batches flow where Python lists us"},
        {"headline": "Nothing lost, nothing doubled"},
    ]
