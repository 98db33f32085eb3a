"""A storage folder that cannot be written is told as such, whichever way a graph is run."""

import json

import pytest
from cli.conftest import counter, table, write_graph


@pytest.fixture
def graph(counting, here):
    return write_graph(here / "g.json", [counter(rows=10), table(here)])


@pytest.fixture
def taken(here):
    """A path below a file, where not even root can make a folder."""
    (here / "file").write_text("")
    return here / "file" / "state"


@pytest.mark.parametrize("command", [["run"], ["run", "--engine-only"], ["dev"]])
def test_it_is_named_with_the_way_to_another(nvisy, here, graph, taken, command):
    (here / "graphs").mkdir()
    place = here if command == ["dev"] else graph
    failed = nvisy(*command, place, "--storage", taken)
    assert failed.exit_code == 2
    assert f"the storage folder {taken} cannot be written: " in failed.stderr
    assert "--storage or NVISY_STORAGE" in failed.stderr
    assert "bug" not in failed.output
    assert not (here / "t.db").exists()


@pytest.mark.parametrize("mode", [[], ["--engine-only"]])
def test_so_is_what_is_in_the_way_below_it(nvisy, here, graph, mode, monkeypatch):
    (here / "state").mkdir()
    (here / "state" / "graphs").write_text("")
    monkeypatch.setenv("NVISY_STORAGE", str(here / "state"))
    failed = nvisy("run", graph, *mode, "--json")
    error = json.loads(failed.stdout)["error"]
    assert failed.exit_code != 0
    assert error["kind"] == "storage"
    assert str(here / "state" / "graphs") in error["message"]
    assert "--storage or NVISY_STORAGE" in error["remedy"]


def test_dagsters_own_folder_is_named_too(nvisy, graph, taken, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(taken))
    failed = nvisy("run", graph)
    assert failed.exit_code == 2
    assert f"the folder of Dagster's history {taken} cannot be written" in failed.stderr
    assert "DAGSTER_HOME" in failed.stderr


@pytest.mark.parametrize(
    "command", [["run"], ["run", "--engine-only"], ["dev"], ["dead-letters", "list"]]
)
@pytest.mark.parametrize("storage", ["ftp://host/x", "file:///x", "S3://bucket/x"])
def test_a_url_of_something_else_is_refused_and_makes_no_folder(
    nvisy, here, graph, command, storage, monkeypatch
):
    place = here if command == ["dev"] else graph
    before = set(here.iterdir())
    monkeypatch.setenv("NVISY_STORAGE", storage)
    failed = nvisy(*command, place)
    assert failed.exit_code == 2
    assert f"the storage '{storage}' is neither a folder nor an object store" in failed.stderr
    assert "s3://bucket/prefix" in failed.stderr
    assert "bug" not in failed.output
    assert set(here.iterdir()) == before
