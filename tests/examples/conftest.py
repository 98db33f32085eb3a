"""The examples in a folder of their own, and commands run there as a user would run them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder that holds the examples, as they are in a fresh clone."""
    leave = shutil.ignore_patterns(".nvisy", "out", "__pycache__")
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples", ignore=leave)
    return tmp_path


@pytest.fixture
def run(checkout):
    """Run a tool of the environment; it must succeed. Returns what it wrote to stdout."""

    def call(
        tool: str, *arguments: object, cwd: Path = checkout, env: Mapping[str, str] | None = None
    ) -> str:
        command = [str(Path(sys.executable).parent / tool), *map(str, arguments)]
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**inherited, "COLUMNS": "120", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return call
