"""Which process this is, told so that another can see later whether it is still there."""

import os
import socket
import time
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def uptime() -> float:
    """Seconds since the machine started, those included in which it slept."""
    return time.clock_gettime(_CLOCK)


class Process(BaseModel):
    """One process of one machine since its last start."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: str
    """For people; two machines may have the same name."""
    boot_id: str
    """Made anew at each start of the machine; empty where the system has none."""
    pid_namespace: str
    """Containers count processes each for themselves."""
    pid: int
    process_started: str
    """Tells it from a later process that got the same number."""

    @property
    def is_here(self) -> bool:
        """Whether it ran on this machine since its last start, where this process can see it."""
        return bool(self.boot_id) and (self.boot_id, self.pid_namespace) == _machine()

    @property
    def is_known_dead(self) -> bool:
        """Whether it certainly runs no more; one on another machine is not known to."""
        return self.is_here and _started(self.pid) != self.process_started


def this_process() -> Process:
    """The process that asks."""
    return process_of(os.getpid())


def process_of(pid: int) -> Process:
    """A process of this machine."""
    boot_id, namespace = _machine()
    return Process(
        host=socket.gethostname(),
        boot_id=boot_id,
        pid_namespace=namespace,
        pid=pid,
        process_started=_started(pid) or "",
    )


@cache
def _machine() -> tuple[str, str]:
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot_id, str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        # Elsewhere than on Linux a dead holder is found by its time running out.
        return "", ""


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the machine did; `None` if it runs no more."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name, in parentheses, may hold anything, spaces and parentheses too.
    state, *fields = text.rpartition(")")[2].split()
    # Killed, and not yet buried by its parent, which may never come to it.
    return None if state in "ZXx" else fields[18]
