"""Fixtures shared by the whole suite."""

import gc
import os
import pathlib
import shutil
import tempfile

import pytest

_temporary = pytest.StashKey[str]()
_FOLDER = "NVISY_TEST_FOLDER"


def pytest_configure(config: pytest.Config) -> None:
    """Workers run side by side, with runs of the same names, which clear what others left."""
    if hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="w-", dir=os.environ[_FOLDER])
        os.environ["TMPDIR"] = tempfile.tempdir = folder
    else:
        folder = config.stash[_temporary] = tempfile.mkdtemp(prefix="nvt-")
        os.environ[_FOLDER] = folder
    pathlib.Path(folder).chmod(0o755)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the tests of the workers left there, once these have ended."""
    if folder := config.stash.get(_temporary, None):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Leave what is imported alone: tests for leaks collect garbage, and would look at all of it.

    Half the time of the conformance suites went into that.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()
