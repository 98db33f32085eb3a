"""Allocators that give memory back, so that a long run peaks no higher than a short one.

Measured with the benchmark `memory`: Arrow's default allocator (mimalloc) and one arena of glibc
per thread keep half as much again of what a stream of batches has freed. jemalloc, one arena whose
large blocks are of their own, and a trim every second cost about a twentieth of the time.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache

import anyio
import pyarrow as pa
from anyio import to_thread

ARENAS = 1
RELEASE_SECONDS = 1.0
DECAY_MS = 200
"""How long jemalloc keeps what is freed at hand."""
MMAP_BYTES = 1 << 20
"""From this size on a block is returned to the system as soon as it is freed. With 8 MiB, five
times the data took half as much memory again, as what lies between large blocks keeps them from
being returned; now a fifth, for a twentieth of the time. Left alone, glibc raises its own limit to
the largest block that was freed, 32 MiB at most."""

TRIM_BYTES = 64 << 20
"""So much freed memory stays at hand until the next trim. With glibc's own 128 KiB, what is freed
between two batches is returned, and fetched again page by page, for a twentieth of the time."""

# malloc.h of glibc
_M_ARENA_MAX = -8
_M_MMAP_THRESHOLD = -3
_M_TRIM_THRESHOLD = -1
_CHOSEN = {"MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}


@cache
def settle() -> None:
    """Choose them for this process, where the environment has not chosen already.

    `ARROW_DEFAULT_MEMORY_POOL` and the `MALLOC_` variables for arenas and thresholds are left as a
    user set them. What was allocated before stays where it is.
    """
    if (
        "ARROW_DEFAULT_MEMORY_POOL" not in os.environ
        and "jemalloc" in pa.supported_memory_backends()
    ):
        pa.set_memory_pool(pa.jemalloc_memory_pool())
        pa.jemalloc_set_decay_ms(DECAY_MS)
    mallopt = _glibc("mallopt")
    if not _CHOSEN & os.environ.keys() and mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
        mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES)


async def release_for_ever() -> None:
    """Give back, every second, what glibc keeps of freed memory."""
    trim = _glibc("malloc_trim")
    while trim is not None:
        await anyio.sleep(RELEASE_SECONDS)
        await to_thread.run_sync(trim, 0)


def _glibc(name: str) -> Callable[..., int] | None:
    """A function that only glibc has: neither musl nor macOS."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
