"""Dagster with an instance on disk."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster_project import Project


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the instance that all tests share; setting up its databases takes a second."""
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    return home


@pytest.fixture(scope="session")
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


@pytest.fixture
def project(tmp_path: Path, home: Path, instance: dg.DagsterInstance) -> Project:
    return Project(tmp_path, home, instance)
