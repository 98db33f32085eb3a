"""The allocators of a process that runs stages; each case is a process of its own."""

import os
import subprocess
import sys

import pyarrow as pa
import pytest

PROGRAM = """
import pyarrow as pa
from nvisy_dagster.engine import allocators
allocators.settle()
allocators.settle()
print(pa.default_memory_pool().backend_name)
"""


def backend(**environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k != "ARROW_DEFAULT_MEMORY_POOL"}
    command = [sys.executable, "-c", PROGRAM]
    found = subprocess.run(
        command, env=kept | environment, capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


@pytest.mark.skipif("jemalloc" not in pa.supported_memory_backends(), reason="Arrow lacks jemalloc")
def test_arrow_allocates_with_what_gives_back() -> None:
    assert backend() == "jemalloc"


def test_what_the_user_chose_stays() -> None:
    assert backend(ARROW_DEFAULT_MEMORY_POOL="system", MALLOC_ARENA_MAX="4") == "system"
