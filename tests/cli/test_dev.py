"""`nvisy dev`: a folder that people work in, with wrong graphs and stray modules in it."""

from pathlib import Path

from cli.conftest import write_graph
from cli.served import serving

STRAY = ("gql", "graphql", "json", "yaml", "anyio", "click", "pyarrow", "dagster")


def copy_graph(here: Path, name: str, connector: str = "local") -> Path:
    nodes = [
        {"id": "a", "type": "source", "connector": connector, "params": {"path": "texts"}},
        {"id": "b", "type": "sink", "connector": "local", "params": {"path": f"out_{name}"}},
    ]
    return write_graph(here / f"{name}.json", nodes)


def test_a_wrong_graph_is_shown_beside_the_others_and_stray_modules_do_no_harm(start, here):
    (here / "texts").mkdir()
    (here / "texts" / "a.txt").write_text("one")
    for module in STRAY:
        (here / f"{module}.py").write_text("raise RuntimeError('stray')")
    copy_graph(here, "good")
    copy_graph(here, "bad", "locl")
    with serving(start, here) as served:
        # At first start.
        assert {"good", "good__replay", "bad"} <= set(served.jobs())
        assert "$.nodes[0].connector" in served.jobs()["bad"]
        log = served.log.read_text()
        assert "Dagster loads the other graphs" in log
        assert "bad.json is not loaded" in log
        assert 'unknown connector "locl"' in log
        # What is relative is so to the graph's folder.
        assert served.ended(served.launch("good")) == "SUCCESS"
        assert list((here / "out_good").iterdir())
        failed = served.launch("bad")
        assert served.ended(failed) == "FAILURE"
        assert 'unknown connector "locl" (did you mean "local"?)' in served.messages(failed)
        # On reload: one more becomes wrong, and the first is corrected.
        copy_graph(here, "bad")
        (here / "good.json").write_text("{")
        served.reload()
        jobs = served.jobs()
        assert "bad__replay" in jobs
        assert "good__replay" not in jobs
        assert "has mistakes and cannot run" in jobs["good"]
        assert served.ended(served.launch("bad")) == "SUCCESS"
