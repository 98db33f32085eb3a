"""Every snippet of the README and the guides is executed, in the order in which it is read."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import Block, blocks_of
from doc_console import REPOSITORY, run_console, serve_console

from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.graph.connections import load_connections, parse_connections
from nvisy_dagster.graph.load import build_graph

ELSEWHERE = {"extending.md": "tests/sdk_testing/test_extending_guide.py compares every block"}
"""Guides whose blocks another test executes."""

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted(path for path in (REPOSITORY / "docs").glob("*.md") if path.name not in ELSEWHERE),
]
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
NOT_RUN = [block for block in BLOCKS if block.how == "not run"]


@pytest.fixture
def home(tmp_path):
    """The reader's home, with a checkout in it."""
    checkout = tmp_path / "home" / "nvisy-dagster"
    leave = shutil.ignore_patterns(".nvisy", "out", "__pycache__")
    shutil.copytree(REPOSITORY / "examples", checkout / "examples", ignore=leave)
    for name in ("Makefile", *_built_from()):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, checkout / name)
    # The environment of these tests stands in for the one that `make` would install.
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (checkout / ".venv" / ".installed-demo").touch()
    return checkout.parent


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets(page, home):
    # Guides of the repository are read in a checkout; the tutorial begins in an empty folder.
    folder = home if page.name == "tutorial.md" else home / "nvisy-dagster"
    for block in blocks_of(page):
        if block.how != "not run":
            folder = _execute(block, folder)


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: block.place)
def test_not_run_with_a_reason(block):
    assert len(block.what) > 10, f"{block.place}: say why it is not run"
    pytest.skip(f"{block.place} is not run: {block.what}")


def test_guides_that_are_executed_elsewhere_exist():
    assert all((REPOSITORY / "docs" / name).is_file() for name in ELSEWHERE)


def _built_from() -> list[str]:
    """The files for whose sake `make` would install anew."""
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    found = re.search(r"^BUILT_FROM := (.*)$", makefile, re.MULTILINE)
    assert found, "Makefile: no BUILT_FROM"
    return found[1].split()


def _execute(block: Block, folder: Path) -> Path:
    """Do with a block what its reader would; returns the folder that the reader is in then."""
    if block.how == "shows":
        shown = (REPOSITORY / block.what).read_text("utf-8")
        assert block.text in shown, f"{block.place}: {block.what} says something else"
    elif block.how == "over":
        _compile(_merged(folder / block.what, json.loads(block.text)), folder / block.what)
    elif block.how == "connections":
        assert parse_connections(block.text), block.place
    elif block.how == "file":
        (folder / block.what).parent.mkdir(parents=True, exist_ok=True)
        (folder / block.what).write_text(block.text, "utf-8")
    elif block.how == "serves":
        serve_console(block.text, folder, block.place)
    elif block.how:
        pytest.fail(f"{block.place}: unknown comment {block.how!r}")
    elif block.language == "console":
        return run_console(block.text, folder, block.place)
    elif block.language == "json":
        _compile(json.loads(block.text), folder / "graph.json")
    elif block.language == "python":
        command = [sys.executable, "-c", block.text]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, f"{block.place}:\n{done.stderr}"
    else:
        pytest.fail(f"{block.place}: how is a block of {block.language!r} executed?")
    return folder


def _merged(path: Path, part: dict) -> dict:
    """The graph in `path` with a part of it said anew: whole keys, and nodes by their ids."""
    graph = json.loads(path.read_text("utf-8"))
    said = {node["id"]: node for node in part.pop("nodes", [])}
    nodes = [said.pop(node["id"], node) for node in graph["nodes"]]
    return {**graph, **part, "nodes": [*nodes, *said.values()]}


def _compile(document: dict, path: Path) -> None:
    """Compile a graph with the connections beside it; those it names otherwise are made up."""
    beside = path.with_name("connections.json")
    connections = dict(load_connections(beside)) if beside.exists() else {}
    graph = build_graph(document, name=path.stem, connections=connections)
    compile_graph(graph, connections=connections or None, folder=path.parent)
