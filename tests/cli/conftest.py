"""Graphs to run, and an installation in which the test components are registered."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nvisy_dagster.cli.app import cli
from nvisy_dagster.registry import installed

TESTS = Path(__file__).parents[1]
ENTRY_POINTS = """\
[nvisy.connectors]
counter = engine.counting
table = engine.counting
idle = engine.pausing
appending = engine.pausing
leaky = cli.stubborn

[nvisy.actions]
even = engine.counting
pay = engine.counting
billed = engine.pausing
stubborn = cli.stubborn
echo = cli.stubborn
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """A folder that looks like an installed distribution with the test components."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "counting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory) -> Path:
    """Where processes keep compiled modules, as an installation does."""
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture
def counting(site, monkeypatch) -> Iterator[None]:
    """The test components are installed in this process."""
    monkeypatch.syspath_prepend(str(site))
    installed.cache_clear()
    yield
    installed.cache_clear()


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working folder of its own, and nothing of ours in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("NVISY_", "DAGSTER_")) or name in {"NO_COLOR", "FORCE_COLOR"}:
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def nvisy(here):
    """Run a command in this process."""

    def invoke(*arguments: object) -> Result:
        # Wide, whatever the terminal of whoever runs the tests.
        runner = CliRunner(env={"COLUMNS": "160"})
        result = runner.invoke(cli, [str(one) for one in arguments], prog_name="nvisy")
        assert "Traceback" not in result.output
        return result

    return invoke


@pytest.fixture
def environment(site, here, bytecode) -> dict[str, str]:
    """The environment of a process in which the test components are installed."""
    paths = os.pathsep.join([str(site), str(TESTS)])
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": paths, "PYTHONPYCACHEPREFIX": str(bytecode), "COLUMNS": "120"}


@pytest.fixture
def start(environment, here):
    """Start a command in a process of its own; it is killed when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def popen(*arguments: object, **kwargs: Any) -> subprocess.Popen[str]:
        # Like the script `nvisy`: what lies in the working folder is no module.
        command = [sys.executable, "-P", "-m", "nvisy_dagster.cli", *map(str, arguments)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        options = {"cwd": here, "env": environment, **streams, **kwargs}
        process = subprocess.Popen(command, **options)
        started.append(process)
        return process

    yield popen
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def write_graph(path: Path, nodes: Sequence[dict[str, Any]], **more: Any) -> Path:
    """Write a graph whose nodes form a chain."""
    edges = [{"from": a["id"], "to": b["id"]} for a, b in pairwise(nodes)]
    document = {"name": path.stem, "nodes": list(nodes), "edges": edges, **more}
    path.write_text(json.dumps(document, indent=2))
    return path


def counter(**params: Any) -> dict[str, Any]:
    return {"id": "count", "type": "source", "connector": "counter", "params": params}


def action(name: str, **params: Any) -> dict[str, Any]:
    return {"id": name, "type": "action", "action": name, "params": params}


def table(folder: Path, **params: Any) -> dict[str, Any]:
    params = {"path": str(folder / "t.db"), **params}
    return {"id": "table", "type": "sink", "connector": "table", "params": params}
